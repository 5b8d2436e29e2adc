"""Names and tags by which people find what is stored. Nothing that is computed depends on them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from app.schemas.strict import Strict

NO_CONTROLS = r"^[^\x00-\x1f\x7f]*$"

Name = Annotated[str, Field(min_length=1, max_length=255, pattern=NO_CONTROLS)]
Tag = Annotated[str, Field(min_length=1, max_length=64, pattern=NO_CONTROLS)]
Tags = Annotated[tuple[Tag, ...], Field(max_length=32), AfterValidator(lambda tags: tuple(sorted(set(tags))))]


class UploadLabels(Strict):
    """What a model or a dataset is called."""

    name: Name | None = Field(default=None, description="null: the beginning of its digest.")
    tags: Tags = Field(default=(), description="Kept in order, each once.")
    pinned: bool = Field(default=False, description="true: kept however long it was not used.")


class JobLabels(Strict):
    """What a job is called, and how much it matters."""

    name: Name | None = Field(default=None, description="By which it is recognised; need not be unique.")
    tags: Tags = Field(default=(), description="Kept in order, each once.")
    priority: Annotated[int, Field(ge=-100, le=100)] = Field(
        default=0, description="Of the jobs of a project that wait, those with more of it begin first."
    )
    pinned: bool = Field(default=False, description="true: kept however old it is.")


def split_labels(members: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The members of a request that label the job, and the rest, which says what is computed."""
    labels = {name: value for name, value in members.items() if name in JobLabels.model_fields}
    return labels, {name: value for name, value in members.items() if name not in labels}

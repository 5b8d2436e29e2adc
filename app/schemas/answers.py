"""What the API answers. Times are RFC 3339 in UTC, sizes bytes."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from app.errors import CATALOGUE
from app.lifecycle.states import JobState, Outcome

# The database has no list where there are no tags.
Tags = Annotated[list[str], BeforeValidator(lambda tags: tags or [])]


class Answer(BaseModel):
    model_config = ConfigDict(frozen=True)


class FieldError(Answer):
    """One wrong field of a request."""

    field: str = Field(description="Path of the field, e.g. budget.max_drop; empty for the request as a whole.")
    message: str


class Problem(Answer):
    """Problem details of RFC 9457. `code` is stable; `detail` is written for the person who reads it."""

    type: str
    title: str
    status: int
    detail: str
    code: str = Field(description="Stable; newer versions may have more.", json_schema_extra={"enum": list(CATALOGUE)})
    instance: str | None = None
    errors: list[FieldError] | None = Field(default=None, description="The wrong fields, if that is the problem.")


class Upload(Answer):
    """An uploaded model or dataset. `id` is its SHA-256: the same contents are the same upload."""

    id: str
    name: str
    tags: Tags
    pinned: bool = Field(description="Kept however long it is not used.")
    size_bytes: int
    sha256: str
    created_at: datetime
    used_at: datetime | None = Field(
        description="When a job last named it, to the day, or it was last sent again; null: never."
    )


class UploadList(Answer):
    uploads: list[Upload]
    next_cursor: str | None = Field(description="Give it as `cursor` to get those before these; null: no more.")


class OpenUpload(Answer):
    """An upload that comes in pieces."""

    id: str
    kind: Literal["model", "dataset"]
    name: str | None
    size_bytes: int
    received_bytes: int
    expires_at: datetime
    upload_id: str | None = Field(description="The id of the model or dataset that it became; null: not all arrived.")


class Job(Answer):
    id: str
    name: str | None
    tags: Tags
    priority: int = Field(description="Of the jobs of a project that wait, those with more of it begin first.")
    pinned: bool = Field(description="Kept however old it is.")
    state: JobState
    outcome: Outcome | None = Field(description="How a succeeded job answered its budget.")
    stage: str | None = Field(description="The stage that runs, or ran last.")
    progress: float = Field(description="Done of the whole job, 0 to 1.")
    eta_seconds: float | None
    estimate: dict[str, Any] | None = Field(
        description="What the job was expected to take when its long stages began; null before, or where it has none."
    )
    cancel_requested: bool
    attempt: int = Field(description="How often a worker has taken the job.")
    model_id: str
    dataset_id: str | None
    parent_id: str | None = Field(description="The job of which this is a replan.")
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    request: dict[str, Any] = Field(description="The request with every default filled in.")
    summary: dict[str, Any] | None
    error: Problem | None = Field(description="Why the job failed.")


class JobList(Answer):
    jobs: list[Job]
    next_cursor: str | None = Field(description="Give it as `cursor` to get the jobs before these; null: no more.")


class Health(Answer):
    status: Literal["ok"] = "ok"


class Readiness(Answer):
    """Whether jobs that are accepted now would be worked on."""

    status: Literal["ready"] = "ready"
    workers: int = Field(description="Workers that reported within the last minute.")
    progressing: int = Field(description="Workers that got on, or found nothing to do, within the last minute.")
    oldest_queued_seconds: float | None = Field(description="How long the oldest waiting job has waited.")

"""What was recognised in an upload. A worker checks with these what the process that read the file says of it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

Text = Annotated[str, Field(max_length=1000)]
Length = Annotated[int, Field(ge=0)] | None
"""Of an axis; null where the file leaves it open."""
Thumbnail = Annotated[str, Field(max_length=60_000, pattern=r"^data:image/png;base64,[A-Za-z0-9+/=]+$")]
Finite = Annotated[float, Field(allow_inf_nan=False)]


class Description(BaseModel):
    """What all answers share: nothing that was read from a file is taken as it is."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Tensor(Description):
    """An input or output of a network."""

    name: Text
    dtype: Text = Field(examples=["float32"])
    shape: Annotated[list[Length], Field(max_length=64)] | None = Field(description="null: not even the rank is known.")


class ModelDescription(Description):
    """What a network takes and gives, and how large it is."""

    state: Literal["ready"] = "ready"
    inputs: Annotated[list[Tensor], Field(max_length=1000)]
    outputs: Annotated[list[Tensor], Field(max_length=1000)]
    opset: int
    producer: Text
    weights: int = Field(description="Numbers in all initializers.")
    weight_bytes: int
    nodes: int
    operators: Annotated[dict[Text, int], Field(max_length=1000)] = Field(description="How many nodes of each kind.")


class Array(Description):
    """An array of the samples. Values are those of the samples that were looked at; null where none is finite."""

    name: Text
    dtype: Text
    shape: Annotated[list[Annotated[int, Field(ge=0)]], Field(max_length=64)]
    role: Literal["input", "labels", "targets", "boxes"] | None
    minimum: Finite | None
    maximum: Finite | None
    mean: Finite | None


class LabelCounts(Description):
    """The classes among the labels; labels below 0 do not count."""

    classes: int = Field(description="How many different classes there are.")
    counts: Annotated[dict[Text, int], Field(max_length=1000)] = Field(
        description="Samples by class; the first thousand classes."
    )


class DatasetDescription(Description):
    """What the samples are."""

    state: Literal["ready"] = "ready"
    form: Text = Field(examples=["npz"])
    arrays: Annotated[list[Array], Field(max_length=1000)]
    samples: int
    labels: LabelCounts | None
    thumbnails: Annotated[list[Thumbnail], Field(max_length=8)] = Field(description="PNG, as addresses with data.")
    notes: Annotated[list[Text], Field(max_length=100)]


class PendingDescription(Description):
    """A worker is asked to make it: ask again after `Retry-After` seconds."""

    state: Literal["pending"] = "pending"


class FailedDescription(Description):
    """The file cannot be read; a job about it would fail, too."""

    state: Literal["failed"] = "failed"
    problem: dict[str, JsonValue] = Field(description="Problem details of RFC 9457.")


OF_KIND: dict[str, type[ModelDescription | DatasetDescription]] = {
    "model": ModelDescription,
    "dataset": DatasetDescription,
}
"""What describes an upload of each kind."""

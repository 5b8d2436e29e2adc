"""What a request states of the inputs of a network."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from app.schemas.strict import MAX_LAYERS, LayerName, Strict


class InputSpec(Strict):
    """What is stated of one input."""

    batch_axis: Annotated[int, Field(ge=-32, lt=32)] | None = Field(
        description="The axis of this graph input that samples lie along; null: none, each sample is the input of a "
        "whole call. Left out of the request it is found by shapes, names and a run of two samples."
    )


Inputs = Annotated[dict[LayerName, InputSpec], Field(max_length=MAX_LAYERS)]
"""By the name of a graph input."""

"""What the models of requests share: nothing unknown, nothing converted, and refusals with a code of the catalogue."""

from __future__ import annotations

from typing import Annotated, NoReturn

from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

MAX_NAME = 1024
MAX_LAYERS = 10_000

LayerName = Annotated[str, Field(min_length=1, max_length=MAX_NAME)]


def refuse(code: str, text: str) -> NoReturn:
    """Refuse a field with an error code of the catalogue and a text for the reader."""
    # The text goes in as a value: pydantic would take braces in it for its own.
    raise PydanticCustomError(code, "{text}", {"text": text})


class Strict(BaseModel):
    """No unknown fields, no silent conversions: "8" is not 8, and 1 is not true."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

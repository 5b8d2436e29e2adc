"""Requests as tests write them."""

from __future__ import annotations

from typing import Any

MODEL = "a" * 64
DATA = "b" * 64


def request_of(**members: Any) -> dict[str, Any]:
    """A request about some model, with these members."""
    return {"model_id": MODEL, **members}

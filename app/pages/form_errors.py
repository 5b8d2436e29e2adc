"""What is wrong with a request, by the field of the form that it is about."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from app.errors import AppError
from app.pages.form_fields import READERS

Errors = dict[str, list[str]]
"""Texts by the name of a field; `form`: about no single field."""

SECTIONS = ("budget", "limits", "weights", "activations", "search")
"""Objects of a request that have a place in the form for what is wrong with them as a whole."""
_MISSING = {
    "model_id": "choose an .onnx file, or one of the stored models",
    "quantized_id": "choose the quantized .onnx file, or one of the stored models",
}


def errors_of(error: AppError, raw: Mapping[str, Any]) -> Errors:
    """The texts of `error` at their fields.

    Args:
        raw: what the field `request` holds as JSON: what is wrong with its members is said there.
    """
    entries = error.extra.get("errors") or [{"field": "", "message": error.detail}]
    errors: Errors = {}
    for entry in entries:
        field = _form_field(entry["field"], raw)
        message = _MISSING.get(field, entry["message"]) if _is_missing(entry) else entry["message"]
        if field == "request" and entry["field"]:
            message = f"{entry['field']}: {message}"
        errors.setdefault(field, []).append(message)
    return errors


def _form_field(path: str, raw: Mapping[str, Any]) -> str:
    """The field of the form for this path of a request: its own, that of what holds it, or `form`."""
    if _stands_in(path.split("."), raw):
        return "request"
    parts = path.split(".")
    candidates: Collection[str] = [".".join(parts[:length]) for length in range(len(parts), 0, -1)]
    return next((name for name in candidates if name in READERS or name in SECTIONS), "form")


def _stands_in(path: list[str], raw: Any) -> bool:
    for part in path:
        if not isinstance(raw, Mapping):
            return True  # a part of a value that stands there
        if part not in raw:
            return False
        raw = raw[part]
    return bool(path and path[0])


def _is_missing(entry: Mapping[str, Any]) -> bool:
    return entry["field"] in _MISSING and "required" in entry["message"].lower()

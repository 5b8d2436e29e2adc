"""Between the fields of a form, which are texts, and the JSON of a request: the name of a field is its path there.

What is no number stays text, so that the request's own checks refuse it, at its field and in their words.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Texts = Mapping[str, Sequence[str]]
"""What a form sends: every value of every field."""
Values = dict[str, str | list[str]]
"""What a form shows, by the name of the field."""

_UNITS = {"": 1, "b": 1, "bytes": 1, "kb": 1000, "mb": 1000**2, "gb": 1000**3, "kib": 1024, "mib": 1024**2}
_SIZE = re.compile(r"([0-9][0-9_,]*(?:\.[0-9]+)?)\s*([a-zA-Z]*)")


def number(text: str) -> Any:
    """`text` as a number; as it is where it is none."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return value if isinstance(value, int | float) and not isinstance(value, bool) else text


def size(text: str) -> Any:
    """Bytes: `800000`, `800 kB`, `1.5 MB`, `2 MiB`; as it is where it is none."""
    match = _SIZE.fullmatch(text)
    unit = match and _UNITS.get(match[2].lower())
    if match is None or unit is None:
        return text
    try:
        return round(float(match[1].replace(",", "").replace("_", "")) * unit)
    except OverflowError:
        return text


def names(text: str) -> list[str]:
    """The parts between commas or line ends."""
    return [part.strip() for part in re.split(r"[,\n]", text) if part.strip()]


def kept_layers(text: str) -> dict[str, Any]:
    """Layers, one a line, that stay float32."""
    return {name.strip(): {"keep": True} for name in text.splitlines() if name.strip()}


READERS: Mapping[str, Callable[[str], Any]] = {
    "budget.metric": str,
    "budget.metric_id": str,
    "budget.max_drop": number,
    "budget.kind": str,
    "budget.confidence": number,
    "objective": str,
    "limits.max_size_bytes": size,
    "limits.max_bit_operations": number,
    "limits.max_latency_ms": number,
    "limits.max_load_ms": number,
    "weights.bits": number,
    "weights.granularity": str,
    "weights.block_size": number,
    "weights.rounding": str,
    "weights.formats": names,
    "activations.bits": number,
    "target": str,
    "opset": number,
    "search.deadline_seconds": number,
    "layers": kept_layers,
    "seed": number,
    "name": str,
    "tags": names,
    "priority": number,
    "model_id": str,
    "quantized_id": str,
    "dataset_id": str,
}
"""How a text becomes a value, by field. A field that is empty is left out."""
SEVERAL = ("weights.bits", "activations.bits")
"""Fields with a check box for each value."""


def members_of(texts: Texts) -> dict[str, Any]:
    """The members of a request that a form stands for, without the text `request`, which is JSON."""
    members: dict[str, Any] = {}
    for field, reader in READERS.items():
        given = [text.strip() for text in texts.get(field, ()) if text.strip()]
        if given:
            value = [reader(text) for text in given] if field in SEVERAL else reader(given[-1])
            _put(members, field.split("."), value)
    return members


def values_of(request: Mapping[str, Any], defaults: Mapping[str, Any]) -> Values:
    """What a form shows of a stored request; what has no field stands as JSON in `request`, unless it is the default.

    Args:
        defaults: the request of the same model with every default.
    """
    rest = json.loads(json.dumps(request))
    values: Values = {}
    for field in READERS:
        path = field.split(".")
        value = _take(rest, path)
        if value is None:
            continue
        if field == "layers":
            kept = [name for name, constraint in value.items() if constraint == {"keep": True} and "\n" not in name]
            values[field] = "\n".join(kept)
            _put(rest, path, {name: constraint for name, constraint in value.items() if name not in kept})
        elif field in SEVERAL:
            values[field] = [str(item) for item in value]
        elif isinstance(value, list):
            values[field] = ", ".join(map(str, value))
        else:
            values[field] = str(value)
    unusual = _differing(rest, defaults)
    values["request"] = json.dumps(unusual, indent=2, ensure_ascii=False) if unusual else ""
    return values


def texts_as_values(texts: Texts) -> Values:
    """What was sent, to be shown again as it was."""
    return {name: list(given) if name in SEVERAL else given[-1] for name, given in texts.items() if given}


def _put(members: dict[str, Any], path: Sequence[str], value: Any) -> None:
    for name in path[:-1]:
        members = members.setdefault(name, {})
    members[path[-1]] = value


def _take(members: dict[str, Any], path: Sequence[str]) -> Any:
    """The value at `path`, which is removed; None where there is none."""
    for name in path[:-1]:
        members = members.get(name) or {}
    return members.pop(path[-1], None)


def _differing(request: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The members of `request` that are not as in `defaults`; of objects only those within."""
    differing: dict[str, Any] = {}
    for name, value in request.items():
        usual = defaults.get(name)
        if isinstance(value, Mapping) and isinstance(usual, Mapping) and usual:
            value = _differing(value, usual)
            if not value:
                continue
        elif value == usual:
            continue
        differing[name] = value
    return differing

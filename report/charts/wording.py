"""Numbers and names for people, the same in every chart, on the page and in the model card."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

_UNITS = ("bytes", "kB", "MB", "GB", "TB")


def size(count: float) -> str:
    """`98.4 kB`, `1.09 MB`."""
    power = min(int(math.log10(max(abs(count), 1)) / 3), len(_UNITS) - 1)
    return f"{count / 1000**power:.3g} {_UNITS[power]}" if power else f"{count:,.0f} bytes"


def amount(value: float | None, digits: int = 4) -> str:
    """A number with `digits` that count; a dash for what is not known."""
    if value is None or not math.isfinite(value):
        return "–"
    if value == int(value) and abs(value) < 1e6:
        return f"{int(value):,}"
    return f"{value:.{digits}g}"


def cost(value: float, unit: str) -> str:
    """A cost of the frontier in its unit."""
    return size(value) if unit == "bytes" else f"{amount(value)} {unit}"


def seconds(value: float) -> str:
    """`8.2 s`, `3 min 20 s`."""
    if value < 60:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def short(name: str, most: int = 48) -> str:
    """A name that fits: its end tells layers apart."""
    return name if len(name) <= most else f"…{name[1 - most :]}"


def metric(certificate: Mapping[str, Any]) -> str:
    """What the budget is about, in words."""
    return str(certificate["metric"]).replace("_", " ")

"""A drop of a metric for people: in points, in percent of a value, or in the metric's own unit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.schemas.budget import OF_UNITS


def drop_text(amount: float | None, budget: Mapping[str, Any], certificate: Mapping[str, Any] | None = None) -> str:
    """`0.61 points`, `2.5 %`, `0.0123 nats`; a dash for None.

    Args:
        amount: a drop, the end of its interval, or the most that it may be: a fraction unless the metric has a unit.
        budget: that of the job's request.
        certificate: what was measured, which knows the unit; None: nothing was, yet.
    """
    if amount is None:
        return "–"
    certificate = certificate or {}
    if certificate.get("kind", budget.get("kind")) in ("relative", "of_null"):
        return f"{100 * amount:.3g} %"
    claims = certificate.get("claims") or ()
    unit = claims[0].get("unit", "share") if claims else ("none" if budget.get("metric") in OF_UNITS else "share")
    if unit == "share":
        return f"{100 * amount:.2f} points"
    return f"{amount:.4g}" if unit == "none" else f"{amount:.4g} {unit}"

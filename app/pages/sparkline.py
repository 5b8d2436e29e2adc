"""The plans that a job evaluated as a picture in a line of text: size to the right, drop upwards, the budget dashed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

WIDTH = 96
HEIGHT = 28
_MARGIN = 4


@dataclass(frozen=True, slots=True)
class Dot:
    """A plan in pixels, and whether it was within the budget; None: it was not decided."""

    x: float
    y: float
    within: bool | None


@dataclass(frozen=True, slots=True)
class Sparkline:
    """The dots from the smallest plan to the largest, and the height of the budget."""

    dots: Sequence[Dot]
    budget_y: float | None

    @property
    def path(self) -> str:
        """The dots as the points of a line."""
        return " ".join(f"{dot.x:.1f},{dot.y:.1f}" for dot in self.dots)


def sparkline(
    evaluated: Sequence[Mapping[str, Any]],
    max_drop: float | None,
    width: int = WIDTH,
    height: int = HEIGHT,
    margin: int = _MARGIN,
) -> Sparkline | None:
    """The picture of what the events `evaluated` say; None where fewer than two plans were evaluated."""
    plans = sorted(evaluated, key=lambda plan: plan["size_bytes"])
    if len(plans) < 2:
        return None
    drops = [float(plan["drop"]) for plan in plans]
    low, high = min([0.0, *drops]), max([0.0, *drops, max_drop or 0.0])
    first, last = float(plans[0]["size_bytes"]), float(plans[-1]["size_bytes"])

    def across(size_bytes: float) -> float:
        return margin + (width - 2 * margin) * (size_bytes - first) / ((last - first) or 1)

    def up(drop: float) -> float:
        return height - margin - (height - 2 * margin) * (drop - low) / ((high - low) or 1)

    dots = [Dot(across(plan["size_bytes"]), up(plan["drop"]), plan.get("within")) for plan in plans]
    return Sparkline(dots, None if max_drop is None else up(max_drop))

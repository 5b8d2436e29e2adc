"""Plans as points of a chart: what each costs, what is predicted of it, and what was measured."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from report.documents import Documents

FRONTIER = "on the frontier"
UNIFORM = "uniform widths"
TRIED = "tried by the search"
DELIVERED = "delivered"
FLOAT = "float model"


@dataclass(frozen=True, slots=True)
class PlanPoint:
    """A plan: `cost` in the unit of the frontier, damage in nats, the drop in the unit of the budget."""

    kind: str
    label: str
    cost: float
    predicted_damage: float | None
    drop: float | None = None
    stderr: float | None = None


def plan_points(documents: Documents) -> list[PlanPoint]:
    """Every plan that is known of a job that searched, the delivered one last; none of a job that did not search.

    A plan that is several things is the last of: tried, on the frontier, uniform, delivered.
    """
    frontier, plan = documents.frontier, documents.plan
    if frontier is None or plan is None:
        return []
    tried = plan["search"]["evaluated"] if plan.get("search") else []
    measured = {(row["cost"], row["predicted_damage"]): (row["drop"], row["stderr"]) for row in tried}
    known: dict[tuple[float, float], PlanPoint] = {}
    for kind, rows in ((TRIED, tried), (FRONTIER, frontier["points"]), (UNIFORM, _uniform(frontier, tried))):
        for row in rows:
            place = (row["cost"], row["predicted_damage"])
            known[place] = PlanPoint(kind, _label(kind, row["bits"]), *place, *measured.get(place, (None, None)))
    # not the point that the search chose: on the held-out samples a safer plan may have taken its place
    cost = _cost(plan, str(frontier["cost"]))
    if cost is not None:
        place = (cost, plan["predicted_damage"])
        drop, stderr = measured.get(place, (None, None))
        known.pop(place, None)
        known[place] = PlanPoint(DELIVERED, DELIVERED, *place, drop, stderr)
    return list(known.values())


def _cost(plan: Mapping[str, Any], quantity: str) -> float | None:
    """What the delivered plan costs in the quantity of the frontier; None where it is not known."""
    if quantity == "latency":
        latency = plan.get("latency")
        return None if latency is None else float(latency["predicted_ms"])
    if quantity == "load":
        return float(plan["load"]["predicted_ms"])
    cost = plan["bit_operations" if quantity == "bit_operations" else "size_bytes"]
    return float(cost)


def _uniform(frontier: Mapping[str, Any], tried: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The plans of one width; an older frontier has those that were tried and really have one."""
    if "uniform" in frontier:
        return list(frontier["uniform"])
    return [row for row in tried if len(set(row["bits"].values())) == 1]


def _label(kind: str, bits: Mapping[str, int]) -> str:
    widths = Counter(bits.values())
    if kind == UNIFORM:
        return f"all {widths.most_common(1)[0][0]} bits"
    parts = ", ".join(f"{count} of {width} bits" for width, count in sorted(widths.items()))
    return f"{kind}: {parts}"

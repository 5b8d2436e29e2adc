"""Accuracy-guided search: the cheapest plan of a frontier that keeps the budget, by few real evaluations.

Bisection along the frontier, guided by what has been measured (after arXiv 2306.04879, which bisects along an order of
layers: `planner.level_bisection`). After every evaluation the map from predicted damage to measured drop is fitted
again (`planner.evidence`); the next probe is the cheapest plan that the map expects to meet the budget, kept inside
the bracket of what is known. When the bracket has closed, the neighbours that the noise may have misjudged are probed.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from planner.errors import ProblemInvalid
from planner.evidence import Evidence, PlanPoint, quarter_inside

PARTS = (4, 16, 64)
"""Of the bracket, which a guess is kept inside of: the smaller, the more is known of the map. It is a line from the
start where there is a slope, and that of this network where the search ends with what is small enough."""
NEIGHBOURS = (-1, 1, -2)
"""Probes beside the answer once the bracket has closed, nearest first: cheaper plans, then dearer ones."""
# plans at the frontier's safe end that are compared when the least drop is wanted
SAFEST = 4


def search_frontier(
    points: Sequence[PlanPoint],
    evidence: Evidence,
    *,
    slope: float | None = None,
    close: float = 1.0,
    enough: float = 1.0,
    neighbours: Sequence[int] = NEIGHBOURS,
) -> None:
    """Evaluate plans of the frontier until the cheapest one that meets the budget is found, or the evidence ends.

    The safest plan is evaluated to the end: if even that misses, its drop is the smallest that can be reached.

    Args:
        points: cost strictly ascending, damage strictly descending.
        slope: of the drop by the damage, as far as it is known before anything is measured; None: the first probe lies
            in the middle.
        close: ratio of costs to which the bracket is closed; what lies between is left to others.
        enough: the search also ends where the cheapest plan that the map expects to meet is cheaper than the answer by
            no more than this ratio.
        neighbours: as `NEIGHBOURS`.

    Raises:
        ProblemInvalid: no points, or points out of order.
    """
    _check(points)
    while (index := _next_probe(points, evidence, slope, close, enough, neighbours)) is not None:
        if not evidence.evaluate(points[index], to_the_end=index == len(points) - 1):
            break


def least_drop(points: Sequence[PlanPoint], evidence: Evidence) -> PlanPoint:
    """The plan with the least measured drop among the `SAFEST` plans at the safe end of the frontier.

    Predicted damage orders plans that differ by much; the last ones differ by less than it can say, so they are
    measured, each to the end.

    Raises:
        ProblemInvalid: no points, or points out of order.
    """
    _check(points)
    for point in reversed(points[-SAFEST:]):
        if not evidence.evaluate(point, to_the_end=True):
            break
    return evidence.least_drop()


def _next_probe(
    points: Sequence[PlanPoint],
    evidence: Evidence,
    slope: float | None,
    close: float,
    enough: float,
    neighbours: Sequence[int],
) -> int | None:
    """The plan to evaluate next; None when nothing is left to learn."""
    last = len(points) - 1
    part = PARTS[0 if slope is None else 1 if enough == 1 else 2]
    known = [index for index, point in enumerate(points) if point in evidence]
    if not known:
        if slope is None:
            return last // 2
        return next((k for k, point in enumerate(points) if slope * point.damage <= evidence.max_drop), last)
    meeting = [index for index in known if evidence.meets(points[index])]
    if not meeting:
        dearest = known[-1]
        return None if dearest == last else _within(points, evidence, dearest + 1, last, part)
    best = meeting[0]
    if enough > 1 and points[best].cost <= enough * points[_foreseen(points, evidence, best)].cost:
        return None
    below = [index for index in known if index < best]
    cheaper = below[-1] + 1 if below else 0
    while close > 1 and cheaper < best and points[best].cost <= close * points[cheaper].cost:
        cheaper += 1
    if cheaper < best:
        return _within(points, evidence, cheaper, best - 1, part)
    for step in neighbours:
        if 0 <= best + step <= last and best + step not in known:
            return best + step
    return None


def _foreseen(points: Sequence[PlanPoint], evidence: Evidence, best: int) -> int:
    """The cheapest plan up to `best` that the map expects to meet."""
    expected = evidence.foreseen(np.array([point.damage for point in points[: best + 1]]))
    return int(np.flatnonzero(np.append(expected[:-1] <= evidence.max_drop, True))[0])


def _within(points: Sequence[PlanPoint], evidence: Evidence, low: int, high: int, part: int) -> int:
    """The cheapest of `low` to `high` that the map expects to meet, but such a part inside the bracket."""
    damages = np.array([point.damage for point in points[low : high + 1]])
    expected = evidence.expected(damages) if part == PARTS[0] else evidence.foreseen(damages)
    meeting = np.flatnonzero(expected <= evidence.max_drop)
    guess = low + int(meeting[0]) if len(meeting) else high
    return quarter_inside(low, high, guess, part)


def _check(points: Sequence[PlanPoint]) -> None:
    if not points:
        raise ProblemInvalid("a search needs points, got none")
    for before, after in itertools.pairwise(points):
        if not (before.cost < after.cost and before.damage > after.damage):
            raise ProblemInvalid("the points of a frontier must have ascending costs and descending damages")

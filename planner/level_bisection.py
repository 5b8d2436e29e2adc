"""Bisection in the order of sensitivity, level by level (arXiv 2306.04879; companion 2302.01382).

All sites begin at the widest level. For each narrower level in turn, the sites that reached the level before are put in
the order of their sensitivity there, the least sensitive first, and the largest number of them that can be narrowed
together within the budget is found by bisection; the others stay behind for good. Deviations from the papers:

1. The first probe of a level narrows all sites, because at wide levels that is the answer.
2. The first bracket of a level is cut where the map from predicted damage to measured drop expects the budget, kept a
   quarter inside; the papers cut it in half.
3. A plan that breaks a limit on costs is not evaluated: whatever it measures, sites have to be narrowed further.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from planner.evidence import Evidence, PlanPoint, quarter_inside
from planner.problem import Plan, Problem

# the plan with its exact cost and its predicted damage; None: it breaks a limit
Priced = Callable[[Plan], PlanPoint | None]


def bisect_levels(problem: Problem, priced: Priced, evidence: Evidence) -> None:
    """Evaluate plans level by level until no site can be narrowed, or the evidence ends.

    A site's level is a number of bits (`levels_of`). A site without a candidate at a level takes no part in it, and may
    take part in the next.
    """
    levels = levels_of(problem)
    widest = [max(choices) for choices in levels]
    plan = [choices[bits] for choices, bits in zip(levels, widest, strict=True)]
    narrowing = list(range(len(plan)))
    start = priced(Plan(tuple(plan)))
    if start is not None and not (evidence.evaluate(start) and evidence.within(start)):
        return  # narrowing would only add to the damage
    for bits in sorted({bits for choices in levels for bits in choices}, reverse=True):
        movable = [site for site in narrowing if bits in levels[site] and bits < widest[site]]
        order = sorted(movable, key=lambda site: (problem.sites[site].candidates[levels[site][bits]].damage, site))
        narrowed = _most(order, plan, [levels[site][bits] for site in order], priced, evidence)
        if narrowed is None:
            return
        for site in order[:narrowed]:
            plan[site] = levels[site][bits]
        stuck = set(order[narrowed:])
        narrowing = [site for site in narrowing if site not in stuck]


def _most(
    order: Sequence[int], plan: Sequence[int], choices: Sequence[int], priced: Priced, evidence: Evidence
) -> int | None:
    """How many of the sites in `order` can take their choice together; None when the evidence ended."""

    def point(count: int) -> PlanPoint | None:
        narrower = list(plan)
        for site, choice in zip(order[:count], choices[:count], strict=True):
            narrower[site] = choice
        return priced(Plan(tuple(narrower)))

    low, high = 0, len(order) + 1  # `low` is known to do, `high` not to
    probe = len(order)
    first = True
    while low + 1 < high:
        tried = point(probe)
        if tried is not None and not evidence.evaluate(tried):
            return None
        if tried is None or evidence.within(tried):
            low = probe
        else:
            high = probe
        probe = (low + high) // 2
        if first and low + 1 < high:
            probe = _expected(low + 1, high - 1, point, evidence)
            first = False
    return low


def _expected(low: int, high: int, point: Callable[[int], PlanPoint | None], evidence: Evidence) -> int:
    """The largest count whose plan the map expects to meet the budget, a quarter inside `low` to `high`."""
    points = [point(count) for count in range(low, high + 1)]
    damages = np.array([-np.inf if priced is None else priced.damage for priced in points])
    meeting = np.flatnonzero(evidence.expected(damages) <= evidence.max_drop)
    return quarter_inside(low, high, low + int(meeting[-1]) if len(meeting) else low)


def levels_of(problem: Problem) -> list[dict[float, int]]:
    """For every site the index of its candidate of each number of bits; of several the one with the least damage."""
    levels: list[dict[float, int]] = []
    for site in problem.sites:
        by_damage = sorted(enumerate(site.candidates), key=lambda numbered: -numbered[1].damage)
        levels.append({candidate.format.bits: choice for choice, candidate in by_damage})
    return levels

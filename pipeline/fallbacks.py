"""Plans that the certificate may look at in place of the chosen one.

Where that one keeps the budget on the held-out samples, cheaper ones of one format are looked at, which missed it in
the search by caution alone: nobody shall find by hand a smaller file that keeps the same promise.

Where it misses, there are fallbacks. Each is dearer than the one before, and loses at most `FINER` of what that one
does. The certificate skips those that are no answer to what it saw: a plan that loses d where b is allowed gives way to
one that loses b / d of it, at least `SAFER`, at most `FINER`. The latter shrinks with every look, so that few looks
lead far; where one leads to a plan that keeps the budget, one between it and the last that missed is tried, too. The
last look is the safest plan's, so that no budget is called missed that it would keep.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from planner.evidence import EvaluatedPlan, PlanPoint, SearchResult, SearchStatus
from planner.problem import Plan

MOST_LOOKS = 7
"""Plans that may be tried on the held-out samples; each look widens the interval of the certificate."""
FINER = 0.9
SAFER = 0.7
"""A plan misses on other samples by about the noise of the measurement: a third less damage is a step of that size."""


@dataclass(frozen=True, slots=True)
class Look:
    """A plan, and what it `loses` of what the chosen one does, as measured if both were, else as predicted."""

    plan: Plan
    loses: float


def cheaper_of(
    result: SearchResult, uniform: Collection[PlanPoint], max_drop: float, least_saving: float
) -> list[Look]:
    """Of the `uniform` plans those that save more than `least_saving`, a share of the chosen one's cost, and were
    measured to keep `max_drop` if nothing is added for the luck of the samples, cheapest first."""
    if result.status is not SearchStatus.MET:
        return []
    below = (1 - least_saving) * result.chosen.point.cost
    cheaper = [plan for plan in result.evaluated if plan.point.cost < below and plan.point in uniform]
    return [Look(plan.point.plan, 1.0) for plan in cheaper if _drop(plan) <= max_drop]


def _drop(plan: EvaluatedPlan) -> float:
    seen = plan.evaluation
    return seen.drop if seen.expected_drop is None else seen.expected_drop


def fallbacks_of(
    points: Sequence[PlanPoint],
    chosen: PlanPoint,
    safest: Sequence[PlanPoint] = (),
    measured: Mapping[PlanPoint, float] = MappingProxyType({}),
) -> list[Look]:
    """What to fall back on, each dearer than the one before, and the `safest`, or else the frontier's last plan.

    Args:
        points: of the frontier, by cost.
        chosen: what is looked at first.
        safest: at most one plan.
        measured: what plans lost that keep the budget, on the search samples.
    """
    dearer = [point for point in points if point.cost > chosen.cost and point.damage < chosen.damage]
    last = [point for point in (*safest, *dearer[-1:]) if point.cost > chosen.cost and point.plan != chosen.plan][:1]
    known = [point for point in measured if point.cost > chosen.cost]

    def loses(point: PlanPoint) -> float:
        if point in measured and measured.get(chosen, 0.0) > 0:
            return max(measured[point], 0.0) / measured[chosen]
        return point.damage / chosen.damage if chosen.damage > 0 else 1.0

    chain = [Look(chosen.plan, 1.0)]
    for point in sorted(dict.fromkeys([*known, *dearer]), key=lambda point: point.cost):
        if loses(point) <= FINER * chain[-1].loses and point not in last:
            chain.append(Look(point.plan, loses(point)))
    return [
        *chain[1:],
        *(Look(point.plan, loses(point)) for point in last if point.plan not in [look.plan for look in chain]),
    ]


def next_look(chain: Sequence[Look], places: Sequence[int], met: Sequence[bool], excess: float) -> int | None:
    """The place in `chain` of the plan to look at next, or None. While all keep the budget it is the one before; behind
    the first that keeps it after others, the one halfway to the last that missed.

    Args:
        chain: cheaper plans, the chosen one and its fallbacks.
        places: of the plans that were looked at.
        met: which of them kept the budget.
        excess: what the last one lost, in budgets.
    """
    here, last, looks = places[-1], len(chain) - 1, len(places)
    if looks < MOST_LOOKS and all(met):
        return here - 1 if here > 0 else None
    if looks == MOST_LOOKS or any(met[:-1]):
        return None
    if met[-1]:
        halfway = (here + places[-2]) // 2
        return halfway if halfway > places[-2] else None
    if here == last:
        return None
    share = min(max(1 / excess if excess > 0 else 1.0, SAFER), FINER**looks)
    wanted = share * chain[here].loses
    safer = (later for later in range(here + 1, last) if chain[later].loses <= wanted)
    return last if looks == MOST_LOOKS - 1 else next(safer, last)

"""Frontiers under interactions: little `x' G x` within limits on costs, from the frontier of G's diagonal alone.

A tabu search (`planner.tabu`) with one walk for each limit goes on from there; pairwise exchanges (`planner.descent`)
improve what each walk found, and the plan of the next cheaper limit, until none helps. CLADO (arXiv 2307.05657) hands
the same problem, one limit at a time, to a commercial solver and reports that it fails to end on larger cases.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from planner.descent import Descent
from planner.errors import LimitUnreachable, NotApplicable, ProblemInvalid
from planner.frontier import additive_frontier
from planner.integer import solve_integer
from planner.problem import TIME_STEP_MS, TIMES, Limits, Problem, Quantity, amount, limit_name
from planner.results import Frontier, Status
from planner.tabu import tabu_frontier

# of each walk
_STEPS = 800
# levels of cost above those of the frontier without limits
_DEARER = 32
# above this many candidates a look at all pairs takes seconds
MOST_FOR_ALL_PAIRS = 1500


def interaction_frontier(
    problem: Problem, cost: Quantity, *, limits: Limits | None = None, points: int = 128, seed: int = 0
) -> Frontier:
    """At most `points` plans from the cheapest to the best, none of which beats another; status HEURISTIC, no bound.

    Args:
        problem: with interactions.
        cost: what the frontier trades damage for.
        limits: on any cost; every plan keeps them.
        points: how many limits on `cost` are tried.
        seed: of the tabu search.

    Raises:
        NotApplicable: the problem has no interactions, or `cost` is the damage.
        LimitUnreachable: no plan keeps the limits.
        ProblemInvalid: `points` below 1.
    """
    if points < 1:
        raise ProblemInvalid(f"a frontier needs at least 1 point, got {points}")
    limits = limits or Limits()
    starts = frontier_within(own_damages(problem), cost, limits, points)
    others = {quantity: limit for quantity, limit in limits.items() if quantity is not cost}
    descent = Descent.of(problem, [cost, *others])
    other_limits = [limit - problem.base(quantity) for quantity, limit in others.items()]
    complete = len(problem.site_of) <= MOST_FOR_ALL_PAIRS
    uppers = np.array([[limit - problem.base(cost), *other_limits] for limit in starts.costs])
    additive = starts.choices.astype(np.int64) + problem.offsets[:-1]
    walked = tabu_frontier(descent, additive, uppers, _STEPS, np.random.default_rng(seed))
    improved = []
    previous: list[NDArray[np.int64]] = []
    for start, upper in zip(walked, uppers, strict=True):
        results = [descent.improved(plan, upper, complete) for plan in (start, *previous)]
        previous = [min(results, key=lambda result: result[1])[0]]
        improved.append(previous[0] - problem.offsets[:-1])
    return Frontier.of(problem, cost, np.array(improved), Status.HEURISTIC, math.inf)


def frontier_within(problem: Problem, cost: Quantity, limits: Limits, points: int) -> Frontier:
    """At most `points` plans of the additive frontier that keep the limits, the cheapest and the best among them.

    With limits on other quantities the plans come from the integer program, one for each of `points` limits on `cost`.

    Raises:
        LimitUnreachable: no plan keeps the limits; the text says which values can be reached.
    """
    frontier = additive_frontier(problem, cost)
    within = np.flatnonzero(problem.within(limits, frontier.choices))
    others = [quantity for quantity, _ in limits.items() if quantity is not cost]
    if not others:
        if not len(within):
            frontier.least_damage(dict(limits.items())[cost])  # raises, naming the nearest cost
        chosen = within[np.unique(np.linspace(0, len(within) - 1, points).round().astype(int))]
        return _part(frontier, chosen)
    levels = frontier.costs[np.unique(np.linspace(0, len(frontier) - 1, points).round().astype(int))]
    levels = np.concatenate([levels, _dearer_levels(problem, cost, limits, levels[-1])])
    most = dict(limits.items()).get(cost, math.inf)
    plans = [
        plan.choices
        for level in levels[levels <= most]
        if (plan := solve_integer(problem, Quantity.DAMAGE, _with(limits, cost, level))) is not None
    ]
    if not plans:
        raise unreachable(problem, limits)
    return Frontier.of(problem, cost, np.array(plans), Status.OPTIMAL, 0.0)


def _dearer_levels(problem: Problem, cost: Quantity, limits: Limits, highest: float) -> NDArray[np.float64]:
    """Levels of `cost` above the `highest` of the frontier without limits, where plans within the limits go on to gain.

    Formats that are small and lose little may take long to load: without them plans get larger, not only worse.
    """
    best = solve_integer(problem, Quantity.DAMAGE, limits)
    if best is None or problem.total(cost, best) <= highest:
        return np.empty(0)
    cheapest = solve_integer(problem, cost, limits)
    least = highest if cheapest is None else max(highest, problem.total(cost, cheapest))
    return np.unique(np.linspace(least, problem.total(cost, best), _DEARER))


def own_damages(problem: Problem) -> Problem:
    """The additive problem whose damages are the diagonal of G: each candidate by itself.

    Raises:
        NotApplicable: the problem has no interactions.
    """
    if problem.interactions is None:
        raise NotApplicable("the problem has no interactions; use the additive frontier or the integer program")
    diagonal = iter(np.diag(problem.interactions).tolist())
    sites = [
        replace(site, candidates=tuple(replace(candidate, damage=next(diagonal)) for candidate in site.candidates))
        for site in problem.sites
    ]
    return replace(problem, sites=tuple(sites), interactions=None)


def _part(frontier: Frontier, index: NDArray[np.int64]) -> Frontier:
    return replace(
        frontier, costs=frontier.costs[index], damages=frontier.damages[index], choices=frontier.choices[index]
    )


def _with(limits: Limits, cost: Quantity, level: float) -> Limits:
    """The limits, with `level` for `cost`."""
    # half a byte of room: the level is the sum of the very numbers that the solver adds up in another order
    room = TIME_STEP_MS / 2 if cost in TIMES else 0.5
    return replace(limits, **{limit_name(cost): level + room})


def unreachable(problem: Problem, limits: Limits) -> LimitUnreachable:
    """The error for limits that no plan keeps together; it names for each the least value that the others leave."""
    reachable = []
    for quantity, limit in limits.items():
        others = replace(limits, **{limit_name(quantity): None})
        least = solve_integer(problem, quantity, others)
        best = "none" if least is None else amount(quantity, problem.total(quantity, least))
        given = f"{limit:g}" if quantity in TIMES else f"{limit:,.0f}"
        reachable.append(f"{limit_name(quantity)} {given} (the least that the others leave is {best})")
    return LimitUnreachable(f"no plan keeps the limits together: {', '.join(reachable)}; raise one of them")

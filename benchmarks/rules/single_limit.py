"""The plan of least `x' G x` within limits on costs: many tabu walks from the additive optimum, then exchanges.

A job needs plans at many limits, and gives each limit one walk (`planner.interactions`). Here all walks have the same
limits. CLADO (arXiv 2307.05657) hands this problem to a commercial solver, and reports that it fails to end on larger
cases.
"""

from __future__ import annotations

import numpy as np

from planner.descent import Descent, FloatArray, IndexArray
from planner.integer import solve_integer
from planner.interactions import MOST_FOR_ALL_PAIRS, own_damages
from planner.problem import Limits, Plan, Problem, Quantity
from planner.tabu import Walks, child

STEPS = 2800
WALKS = 48
# steps between two generations
GENERATION = 200


def solve_interactions(problem: Problem, limits: Limits, *, seed: int = 0, steps: int = STEPS) -> Plan | None:
    """The plan with the least damage found within the limits, or None when no plan keeps them; no bound is known.

    Args:
        problem: with interactions.
        limits: on any costs.
        seed: of the tabu search.
        steps: of each walk, at least 0; with 0 the plan is what exchanges make of the additive optimum.

    Raises:
        NotApplicable: the problem has no interactions.
    """
    start = solve_integer(own_damages(problem), Quantity.DAMAGE, limits)
    if start is None:
        return None
    descent = Descent.of(problem, [quantity for quantity, _ in limits.items()])
    upper = np.array([limit - problem.base(quantity) for quantity, limit in limits.items()])
    complete = len(problem.site_of) <= MOST_FOR_ALL_PAIRS
    best, _ = descent.improved(np.asarray(start.choices) + problem.offsets[:-1], upper, complete)
    if steps:
        walked = tabu_search(descent, best, upper, steps, np.random.default_rng(seed))
        best, _ = descent.improved(walked, upper, complete)
    return Plan(tuple((best - problem.offsets[:-1]).tolist()))


def tabu_search(
    descent: Descent, start: IndexArray, upper: FloatArray, steps: int, generator: np.random.Generator
) -> IndexArray:
    """The best plan within the limits `upper` [L] that walks of so many steps find from `start`, which keeps them.

    After every 200 steps the worse half of the walks begins again at children of the better half: sites chosen like
    one of two parents, and a few at random (a memetic search).
    """
    plans = np.tile(start, (WALKS, 1))
    for row in range(1, WALKS):
        plans[row] = descent.kicked(start, int(generator.integers(1, max(2, len(start) // 2))), generator)
    walks = Walks(descent, plans, np.tile(upper, (WALKS, 1)))
    best, least = start, float(descent.interactions[np.ix_(start, start)].sum())
    for step in range(1, steps + 1):
        walks.step(generator)
        if step % GENERATION and step < steps:
            continue
        order = np.argsort(walks.least, kind="stable")
        if walks.least[order[0]] < least:
            best, least = walks.best[order[0]].copy(), float(walks.least[order[0]])
        better, worse = np.split(order, 2)
        walks.place(worse, np.array([child(descent, walks.best[better], generator) for _ in worse]))
    return best

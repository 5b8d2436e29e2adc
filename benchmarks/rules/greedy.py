"""Steepest descent along the cost: from the widest plan down, always the step that does least damage per cost saved.

What it is good for: it takes O(K) for a step and S steps for a level, whatever the costs and however many sites, and
it follows interactions, because the damage of a step is that of the plan as it stands. What it is not good for: a step
is never taken back. Of an additive problem its plans are vertices of the relaxation, so each is optimal at its own
cost, and between two neighbours nothing better than the line between them exists; under interactions no bound is known.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from planner.errors import NotApplicable
from planner.problem import Problem, Quantity
from planner.results import Frontier, Status

FloatArray = NDArray[np.float64]
IndexArray = NDArray[np.int64]


def greedy_frontier(problem: Problem, cost: Quantity = Quantity.SIZE) -> Frontier:
    """The plans met on the way down that no other one of them beats; status HEURISTIC, no bound.

    Begins with the candidate of the least own damage at every site, ends where no site has a cheaper candidate.

    Raises:
        NotApplicable: `cost` is the damage.
    """
    if cost is Quantity.DAMAGE:
        raise NotApplicable("a frontier has the damage on one axis; its cost must be size, bit operations or latency")
    costs = problem.values(cost)
    plan = _least_damage(problem, costs)
    plans = [plan.copy()]
    gradient = None if problem.interactions is None else problem.interactions[plan].sum(axis=0)
    while True:
        current = plan[problem.site_of]
        saved = costs[current] - costs
        cheaper = np.flatnonzero(saved > 0)
        if not len(cheaper):
            break
        rise = _rises(problem, gradient, current)[cheaper] / saved[cheaper]
        # of equal slopes the longest step
        new = cheaper[np.lexsort((-saved[cheaper], rise))[0]]
        site = problem.site_of[new]
        if gradient is not None and problem.interactions is not None:
            gradient += problem.interactions[new] - problem.interactions[plan[site]]
        plan[site] = new
        plans.append(plan.copy())
    return Frontier.of(problem, cost, np.array(plans) - problem.offsets[:-1], Status.HEURISTIC, math.inf)


def _least_damage(problem: Problem, costs: FloatArray) -> IndexArray:
    """[S]: flat indices of the candidates of least own damage, of equal ones the cheapest."""
    damages = problem.values(Quantity.DAMAGE) if problem.interactions is None else np.diag(problem.interactions)
    order = np.lexsort((costs, damages, problem.site_of))
    return np.asarray(order[problem.offsets[:-1]], dtype=np.int64)


def _rises(problem: Problem, gradient: FloatArray | None, current: IndexArray) -> FloatArray:
    """[K]: by how much each change alone raises the plan's damage; `gradient` is G x."""
    G = problem.interactions
    if G is None or gradient is None:
        damages = problem.values(Quantity.DAMAGE)
        return np.asarray(damages - damages[current])
    own = G.diagonal()
    both = G[np.arange(len(own)), current]
    return np.asarray(2 * (gradient - gradient[current]) + own - 2 * both + own[current])

"""Local improvement: from the plan that a search found, one site at a time to its next narrower candidate.

A frontier is a sample of plans, and the search ends between two of them. Narrowing one site of its answer gives plans
in between. The step that the map from predicted damage to measured drop expects to keep the budget, and that saves the
most, is measured; if it meets the budget, by its own measurement and on the refitted map, the next one starts from
there. The step that fails says something about the map, so the next one is chosen anew.

A measurement alone would not do: of twenty steps that each break the budget a little, some measure lucky (the winner's
curse). So what the map does not expect to keep the budget is not even tried.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from planner.evidence import Evidence, PlanPoint
from planner.level_bisection import Priced, levels_of
from planner.problem import Plan, Problem, Quantity

# steps that are measured at most
MOST_STEPS = 4


def improve_locally(
    problem: Problem,
    priced: Priced,
    evidence: Evidence,
    *,
    most_steps: int = MOST_STEPS,
    shift: float = 0.0,
    least_saving: float = 0.0,
) -> None:
    """Evaluate narrower neighbours of the cheapest plan that meets the budget, at most `most_steps` of them.

    `shift` is added to predicted damages: what measurement knows better of the plan that the steps begin at. A step
    saves more than `least_saving`, a share of the cost.
    """
    for _ in range(most_steps):
        best = evidence.cheapest()
        if best is None:
            return
        below = (1 - least_saving) * best.cost
        step = _most_promising(narrower(problem, best.plan), below, priced, problem, evidence, shift)
        if step is None or not evidence.evaluate(step):
            return


def narrower(problem: Problem, plan: Plan) -> list[Plan]:
    """The plans in which one site has its next candidate with fewer bits, sites in order."""
    steps = []
    for site, (choice, levels) in enumerate(zip(plan.choices, levels_of(problem), strict=True)):
        fewer = [bits for bits in levels if bits < problem.sites[site].candidates[choice].format.bits]
        if fewer:
            steps.append(Plan((*plan.choices[:site], levels[max(fewer)], *plan.choices[site + 1 :])))
    return steps


def _most_promising(
    steps: Sequence[Plan], below: float, priced: Priced, problem: Problem, evidence: Evidence, shift: float
) -> PlanPoint | None:
    """The cheapest step not yet evaluated that costs less than `below` and that the map expects to keep the budget."""
    if not steps:
        return None
    damages = problem.totals(Quantity.DAMAGE, np.array([step.choices for step in steps])) + shift
    promising = np.flatnonzero(evidence.foreseen(damages) <= evidence.max_drop).tolist()
    unknown = [steps[index] for index in promising if not evidence.knows(steps[index])]
    points = [replace(point, damage=point.damage + shift) for step in unknown if (point := priced(step)) is not None]
    points = [point for point in points if point.cost < below]
    return min(points, key=lambda point: (point.cost, point.damage), default=None)

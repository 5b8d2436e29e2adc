"""What the time left to a search is used for: its result evolves by measured loss, and every gain goes back into it."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import numpy as np

from pipeline.fitness import MeasuredLoss
from pipeline.stage import StageContext
from planner.evidence import Evidence, PlanPoint, SearchResult, SearchStatus
from planner.level_bisection import Priced
from planner.local_improvement import improve_locally
from planner.polish import polish
from planner.problem import Plan, Problem, Quantity


def polished(
    context: StageContext,
    problem: Problem,
    priced: Priced,
    cost: Quantity,
    found: SearchResult,
    evidence: Evidence,
    fitness: MeasuredLoss,
) -> tuple[SearchResult, dict[str, Any]]:
    """What evolution makes of the result until the deadline, never a dearer plan, and how much was done.

    A plan that loses less is evaluated as the search evaluates plans; if it meets the budget, or one before it does,
    local improvement narrows sites of the cheapest that does. With the objective accuracy the plan of the least drop is
    the result and nothing is narrowed.
    """
    least = context.request["objective"] == "accuracy"

    def allowed(plan: Plan) -> PlanPoint | None:
        context.check()  # exact costs of a large network take long enough for many plans to be many seconds
        return priced(plan)

    def offer(point: PlanPoint) -> PlanPoint:
        if not evidence.knows(point.plan):
            evidence.evaluate(point, to_the_end=least)
        best = evidence.cheapest()
        if least or best is None:
            return point
        shift = best.damage - problem.total(Quantity.DAMAGE, best.plan)
        improve_locally(problem, allowed, evidence, shift=shift)
        best = evidence.cheapest()
        return point if best is None or best.cost >= point.cost else best

    done = polish(
        found.chosen.point,
        problem,
        allowed,
        fitness,
        offer,
        samples=fitness.samples,
        cost=cost,
        generator=np.random.default_rng(context.request["seed"]),
        expired=context.deadline_passed,
    )
    result = better(found, evidence.result(evidence.least_drop() if least else None))
    return result, {"samples": fitness.samples, **asdict(done)}


def better(before: SearchResult, after: SearchResult) -> SearchResult:
    """`after`, unless more evidence only took the word back for a plan that met the budget at less cost."""
    met = before.status is SearchStatus.MET
    if after.status is SearchStatus.MET and not (met and after.chosen.point.cost > before.chosen.point.cost):
        return after
    if met:
        return replace(before, evaluated=after.evaluated)
    # that the time was up during the polish does not say that the search before was cut short
    return replace(after, status=before.status)


class Elapsed:
    """Progress of a stage that goes on until the deadline: the share of the time that is used up."""

    def __init__(self, context: StageContext) -> None:
        self._context = context
        self._begun = context.time_used()

    def report(self, _done: int) -> None:
        left = 1.0 - self._begun
        self._context.progress((self._context.time_used() - self._begun) / left if left > 0 else 1.0)

"""What the time left to a search is used for: its result evolves by measured loss, and every gain goes back into it.

The loss is measured on samples of the search, and every value is a chunk.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from pipeline.config import PlanConfig
from pipeline.context import Context
from pipeline.plan_losses import PlanLosses
from pipeline.search_space import SearchSpace
from pipeline.workspace import Inputs
from planner.evidence import Evidence, PlanPoint, SearchResult, SearchStatus
from planner.local_improvement import improve_locally
from planner.polish import polish
from planner.problem import Plan, Quantity
from quantization.formats import FloatFormat
from sensitivity.loss import Loss

# the first stage of `planner.evolution` reads a sixteenth of the samples: a batch is not to be more
PARTS = 16
MOST_SAMPLES = 512


def polished(
    context: Context,
    space: SearchSpace,
    config: PlanConfig,
    searched: SearchResult,
    evidence: Evidence,
    fitness: MeasuredLoss,
) -> tuple[SearchResult, dict[str, Any]]:
    """What evolution makes of the result until the deadline, never a dearer plan, and how much was done.

    A plan that loses less is evaluated as the search evaluates plans; if it meets the budget, or one before it does,
    local improvement narrows sites of the cheapest that does. With the objective accuracy the plan of the least drop is
    the result and nothing is narrowed.
    """
    least, problem = space.config.least_drop, space.joint.problem

    def allowed(plan: Plan) -> PlanPoint | None:
        context.check()  # exact costs of a large network take long enough for many plans to be many seconds
        return space.priced(plan)

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
        searched.chosen.point,
        problem,
        allowed,
        fitness,
        offer,
        samples=fitness.samples,
        cost=space.config.cost,
        generator=np.random.default_rng(config.samples.seed),
        expired=lambda: context.time_used(config.deadline_seconds) >= 1,
    )
    result = better(searched, evidence.result(evidence.least_drop() if least else None))
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


def elapsed_progress(context: Context, deadline_seconds: float | None) -> Callable[[], None]:
    """What reports the progress of a stage that goes on until the deadline: the share of the time that is used up."""
    begun = context.time_used(deadline_seconds)

    def report() -> None:
        left, used = 1.0 - begun, context.time_used(deadline_seconds)
        context.progress((used - begun) / left if left > 0 else 1.0)

    return report


class MeasuredLoss:
    """The mean loss of a plan over the first so many samples, rounded up to whole batches; infinite where it is none.

    The samples are the last of the search's, at most `MOST_SAMPLES`: no held-out sample is among them, and
    none of those that ranges and roundings were fitted to.

    Args:
        space: plans are of its `joint` problem.
        report: called after every value.
    """

    def __init__(
        self, context: Context, inputs: Inputs, space: SearchSpace, loss: Loss, report: Callable[[], None]
    ) -> None:
        samples = inputs.take(inputs.last_of_search(MOST_SAMPLES))
        self.samples = len(next(iter(samples.values())))
        batch = inputs.static_batch or min(inputs.batch, math.ceil(self.samples / PARTS))
        self._losses = PlanLosses(context, inputs, samples, loss, batch)
        changes = context.workspace.candidates().changes(inputs.network)
        self._places = {(change.site, change.format): place for place, change in enumerate(changes)}
        self._space = space
        self._report = report

    def __call__(self, plan: Plan, samples: int) -> float:
        original = self._space.joint.original(plan)
        places = [
            self._places[name, format_.name]
            for name, format_ in self._space.problem.formats(original).items()
            if not isinstance(format_, FloatFormat)
        ]
        loss = self._losses.mean(f"loss/{samples}/" + "-".join(map(str, original.choices)), places, samples)
        self._report()
        return math.inf if math.isnan(loss) else loss

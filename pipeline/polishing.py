"""What the time left to a search is used for: its result evolves by measured loss, and every gain goes back into it.

The loss is measured on samples of the search, and every value is a chunk.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.config import PlanConfig
from pipeline.context import Context
from pipeline.results import number, pack, unpack
from pipeline.search_space import SearchSpace
from pipeline.workspace import Inputs
from planner.evidence import Evidence, PlanPoint, SearchResult, SearchStatus
from planner.local_improvement import improve_locally
from planner.polish import polish
from planner.problem import Plan, Quantity
from quantization.formats import FloatFormat
from sensitivity.loss import Loss
from sensitivity.plan_losses import MeasuredPlans

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


class Elapsed:
    """Progress of a stage that goes on until the deadline: the share of the time that is used up."""

    def __init__(self, context: Context, deadline_seconds: float | None) -> None:
        self._context = context
        self._deadline_seconds = deadline_seconds
        self._begun = context.time_used(deadline_seconds)

    def report(self, _done: int) -> None:
        left, used = 1.0 - self._begun, self._context.time_used(self._deadline_seconds)
        self._context.progress((used - self._begun) / left if left > 0 else 1.0)


def fitness_samples(inputs: Inputs) -> NDArray[np.int64]:
    """The last samples of the search, no more than may be alive at once, or one batch."""
    return inputs.splits.search[-max(min(MOST_SAMPLES, inputs.group), inputs.static_batch or 0) :]


class MeasuredLoss:
    """The mean loss of a plan over the first so many samples, rounded up to whole batches; infinite where it is none.

    The samples are the last of the search's, at most `MOST_SAMPLES`: no held-out sample is among them, and
    none of those that ranges and roundings were fitted to.

    Args:
        space: plans are of its `joint` problem.
        report: called after every value with how many there were.
    """

    def __init__(
        self, context: Context, inputs: Inputs, space: SearchSpace, loss: Loss, report: Callable[[int], None]
    ) -> None:
        self._context = context
        self._inputs = inputs
        self._space = space
        self._loss = loss
        self._report = report
        self._done = 0
        self._arrays = inputs.take(fitness_samples(inputs))
        self._runs: MeasuredPlans | None = None
        self._places: dict[tuple[str, str], int] = {}

    @property
    def samples(self) -> int:
        return len(next(iter(self._arrays.values())))

    def __call__(self, plan: Plan, samples: int) -> float:
        original = self._space.joint.original(plan)
        name = f"loss/{samples}/" + "-".join(map(str, original.choices))
        document, _ = unpack(self._context.chunk(name, lambda: self._measured(original, samples)))
        self._done += 1
        self._report(self._done)
        return math.inf if document["loss"] is None else float(document["loss"])

    def _measured(self, plan: Plan, samples: int) -> bytes:
        if self._runs is None:  # made when the first value is not there yet
            self._runs = self._prepared()
        places = [
            self._places[name, format_.name]
            for name, format_ in self._space.problem.formats(plan).items()
            if not isinstance(format_, FloatFormat)
        ]
        return pack({"loss": number(float(self._runs.losses(places, samples).mean()))})

    def _prepared(self) -> MeasuredPlans:
        inputs = self._inputs
        changes = self._context.workspace.candidates().changes(inputs.network)
        self._places = {(change.site, change.format): place for place, change in enumerate(changes)}
        batch = inputs.static_batch or min(inputs.batch, math.ceil(self.samples / PARTS))
        return MeasuredPlans(
            inputs.network,
            changes,
            self._arrays,
            self._loss,
            threads=self._context.machine.threads,
            batch=batch,
            check=self._context.check,
        )

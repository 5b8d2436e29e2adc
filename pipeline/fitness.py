"""The fitness that plans are polished by: their measured loss on samples of the search, each value a chunk."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from pipeline.candidates import Rounded
from pipeline.changes import changes_of
from pipeline.results import number, pack, unpack
from pipeline.stage import StageContext
from pipeline.workspace import Inputs
from planner.merge import MergedProblem
from planner.problem import Plan, Problem
from quantization.formats import FloatFormat
from sensitivity.plan_losses import MeasuredPlans

# the first stage of `planner.evolution` reads a sixteenth of the samples: a batch is not to be more
PARTS = 16
MOST_SAMPLES = 512


def fitness_samples(inputs: Inputs) -> NDArray[np.int64]:
    """The last samples of the search, no more than may be alive at once, or one batch."""
    return inputs.splits.search[-max(min(MOST_SAMPLES, inputs.group), inputs.static_batch or 0) :]


class MeasuredLoss:
    """The mean loss of a plan over the first so many samples, rounded up to whole batches; infinite where it is none.

    The samples are the last of the search's, at most `MOST_SAMPLES`: no held-out sample is among them, and
    none of those that ranges and roundings were fitted to.

    Args:
        problem: the plans of `joint` stand for its plans.
        joint: sites that are decided together are one site; plans are of this problem.
        report: called after every value with how many there were.
    """

    def __init__(
        self,
        context: StageContext,
        inputs: Inputs,
        problem: Problem,
        joint: MergedProblem,
        report: Callable[[int], None],
    ) -> None:
        self._context = context
        self._inputs = inputs
        self._problem = problem
        self._joint = joint
        self._report = report
        self._done = 0
        self._arrays = inputs.take(fitness_samples(inputs))
        self._runs: MeasuredPlans | None = None
        self._places: dict[tuple[str, str], int] = {}

    @property
    def samples(self) -> int:
        return len(next(iter(self._arrays.values())))

    def __call__(self, plan: Plan, samples: int) -> float:
        original = self._joint.original(plan)
        name = f"loss/{samples}/" + "-".join(map(str, original.choices))
        found, _ = unpack(self._context.chunk(name, lambda: self._measured(original, samples)))
        self._done += 1
        self._report(self._done)
        return math.inf if found["loss"] is None else float(found["loss"])

    def _measured(self, plan: Plan, samples: int) -> bytes:
        if self._runs is None:  # made when the first value is not there yet
            self._runs = self._prepared()
        places = [
            self._places[name, format_.name]
            for name, format_ in self._problem.formats(plan).items()
            if not isinstance(format_, FloatFormat)
        ]
        return pack({"loss": number(float(self._runs.losses(places, samples).mean()))})

    def _prepared(self) -> MeasuredPlans:
        inputs = self._inputs
        changes = changes_of(inputs.network, Rounded.unpack(self._context.read("calibrate")))
        self._places = {(change.site, change.format): place for place, change in enumerate(changes)}
        batch = inputs.static_batch or min(inputs.batch, math.ceil(self.samples / PARTS))
        return MeasuredPlans(
            inputs.network,
            changes,
            self._arrays,
            inputs.loss,
            threads=self._context.threads,
            batch=batch,
            check=self._context.check,
        )

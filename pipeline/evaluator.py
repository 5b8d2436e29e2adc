"""One evaluation of the search: a plan exported, and run until it is certain whether it keeps the budget."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict

import numpy as np
from numpy.typing import NDArray

from evaluation.control_variate import Scores, margins, predicted_losses
from evaluation.expected_drop import ExpectedDrop
from evaluation.metrics import DropKind, Metric, are_probabilities
from evaluation.sampling import Sampling
from evaluation.sequential import Verdict
from pipeline.candidates import Rounded
from pipeline.plan_evaluation import Comparison, exported
from pipeline.results import pack, unpack
from pipeline.stage import StageContext
from pipeline.workspace import Inputs
from planner.evidence import Evaluation, PlanPoint
from planner.problem import Problem

# earlier plans, the nearest in predicted damage, that say how a new one will do on each sample
NEAREST = 3


class Evaluator:
    """Measures plans on the search samples and remembers, as a chunk under the plan's own name, what it found.

    Every plan has its own seeded order of the samples, so that what earlier plans showed is fixed before the order is
    drawn. With `confidence` set only a plan that misses is stopped early: that one meets depends on its standard error
    too, for which all samples are read.

    Args:
        report: called after every evaluation with how many there were.
    """

    def __init__(
        self,
        context: StageContext,
        inputs: Inputs,
        problem: Problem,
        metric: Metric,
        *,
        report: Callable[[int], None],
    ) -> None:
        self._context = context
        self._inputs = inputs
        self._problem = problem
        self._rounded = Rounded.unpack(context.read("calibrate"))
        self._compare = Comparison(context, inputs, inputs.splits.search, metric)
        self._float = self._compare.of_float()
        self._margins = _Margins.of(self._compare, metric) if self._float.counts else None
        self._expected = None
        if metric is Metric.TOP1 and self._compare.labels is not None:
            self._expected = ExpectedDrop.of(self._compare.float_output, self._compare.labels)
        self._report = report
        self._done = 0

    def __call__(self, point: PlanPoint, to_the_end: bool) -> Evaluation:
        name = "evaluated/" + "-".join(map(str, point.plan.choices))
        document, arrays = unpack(self._context.chunk(name, lambda: self._measured(point, to_the_end)))
        if self._margins is not None:
            self._margins.remember(point.damage, arrays["margins"])
        self._done += 1
        self._report(self._done)
        return Evaluation(**document)

    def _measured(self, point: PlanPoint, to_the_end: bool) -> bytes:
        request = self._context.request
        budget = request["budget"]
        model = exported(self._context, self._inputs, self._rounded, self._problem, point.plan).file
        predicted = None if self._margins is None else self._margins.predicted(point.damage)
        sampling = Sampling(self._float, budget["max_drop"], DropKind(budget["kind"]), predicted)
        conclusive = {Verdict.BEYOND} if budget["confidence"] else {Verdict.BEYOND, Verdict.WITHIN}
        order = np.random.default_rng([request["seed"], *point.plan.choices]).permutation(self._float.samples)
        seen = np.full(self._float.samples, np.nan)
        losses = np.full(self._float.samples, np.nan)
        verdict = Verdict.OPEN
        for read, output, measurement in self._compare.in_order(model, order):
            verdict = sampling.add(measurement, read)
            if self._margins is not None:
                seen[read] = self._margins.of_output(output, read)
            if self._expected is not None:
                losses[read] = self._expected.losses(output, read)
            if (verdict in conclusive and not to_the_end) or self._context.deadline_passed():
                break
        early = sampling.fraction < 1 and verdict in conclusive
        estimate = sampling.estimate()
        evaluation = Evaluation(
            drop=estimate.mean,
            stderr=estimate.stderr,
            samples=sampling.samples,
            size_bytes=len(model),
            fraction=sampling.fraction,
            within=verdict is Verdict.WITHIN if early else None,
            expected_drop=self._expected_drop(losses),
        )
        document = asdict(evaluation)
        self._context.event("evaluated", {"cost": point.cost, "predicted_damage": point.damage, **document})
        return pack(document, {"margins": seen})

    def _expected_drop(self, losses: NDArray[np.float64]) -> float | None:
        """The mean of those that are known, of the budget's kind; None where none is."""
        if self._expected is None:
            return None
        relative = DropKind(self._context.request["budget"]["kind"]) is DropKind.RELATIVE
        return float(np.nanmean(losses)) / (self._float.float_value if relative else 1.0)


class _Margins:
    """The margins of the float network and of evaluated plans on all search samples, NaN where a plan was not run."""

    def __init__(self, classes: NDArray[np.int64], probabilities: bool, float_margins: Scores) -> None:
        self._classes = classes
        self._probabilities = probabilities
        self._float = float_margins
        self._known: list[tuple[float, Scores]] = []

    @classmethod
    def of(cls, compare: Comparison, metric: Metric) -> _Margins:
        """The right class is the label, or for the agreement the float network's own."""
        output = compare.float_output
        labels = compare.labels if metric is Metric.TOP1 else None
        classes = np.asarray(output.argmax(-1)) if labels is None else labels
        probabilities = are_probabilities(output)
        return cls(classes, probabilities, margins(output, classes, probabilities))

    def of_output(self, output: NDArray[np.generic], read: NDArray[np.int64]) -> Scores:
        return margins(output, self._classes[read], self._probabilities)

    def remember(self, damage: float, plan: Scores) -> None:
        self._known.append((damage, plan))

    def predicted(self, damage: float) -> Scores | None:
        """[samples]: what a plan of this predicted damage will lose, after the plans most like it."""

        def distance(known: tuple[float, Scores]) -> float:
            tiny = np.finfo(float).tiny
            return abs(float(np.log(max(known[0], tiny) / max(damage, tiny))))

        nearest = sorted(self._known, key=distance)[:NEAREST]
        return predicted_losses(self._float, [plan for _, plan in nearest])

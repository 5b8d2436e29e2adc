"""Plans measured: exported, run in ONNX Runtime, and compared with the float network on the same samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict

import numpy as np
from numpy.typing import NDArray

from evaluation.control_variate import margins, predicted_losses
from evaluation.expected_drop import ExpectedDrop
from evaluation.metrics import DropKind, Measurement, Metric, Scores, are_probabilities, measure
from evaluation.runner import OnnxRunner
from evaluation.sampling import Sampling
from evaluation.sequential import Verdict
from network.normalise import dump
from network.runtime import SideBySide
from pipeline.config import PlanConfig
from pipeline.context import Context
from pipeline.events import PlanEvaluated
from pipeline.plan_export import export_plan
from pipeline.results import pack, unpack
from pipeline.search_space import SearchSpace
from pipeline.workspace import Inputs
from planner.evidence import Evaluation, PlanPoint

# earlier plans, the nearest in predicted damage, that say how a new one will do on each sample
NEAREST = 3

_ALL = slice(None)


class Comparison:
    """The float network, whose first output is `float_output` `[samples, ...]`, and its quantized versions on one part
    of the samples."""

    def __init__(self, context: Context, inputs: Inputs, samples: NDArray[np.int64], metric: Metric) -> None:
        self._context = context
        self._inputs = inputs
        self._part = inputs.dataset.take(samples)
        self._metric = metric

        def compute() -> bytes:
            runner = self._runner(dump(inputs.network))
            return pack({}, {"output": self._output(runner, _ALL)})

        _, arrays = unpack(context.chunk("float_output", compute))
        self.float_output = arrays["output"]
        self.labels = self._part.labels

    def __call__(self, model: bytes) -> Measurement:
        """`model` measured against the float network on all samples."""
        return self._measured(self._output(self._runner(model), _ALL), _ALL)

    def of_float(self) -> Measurement:
        """The float network against itself: what there is to lose, sample by sample."""
        return self._measured(self.float_output, _ALL)

    def in_order(
        self, model: bytes, order: NDArray[np.int64]
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.generic], Measurement]]:
        """The samples in `order`, a batch at a time: their indices, `model`'s outputs, the measurement."""
        runner = self._runner(model)
        for start in range(0, len(order), self._inputs.batch):
            read = order[start : start + self._inputs.batch]
            output = self._output(runner, read)
            yield read, output, self._measured(output, read)

    def _runner(self, model: bytes) -> OnnxRunner:
        cores = SideBySide.of(self._inputs.batch, self._context.machine.threads, self._inputs.static_batch)
        return OnnxRunner(model, cores.threads, cores.runs)

    def _output(self, runner: OnnxRunner, samples: NDArray[np.int64] | slice) -> NDArray[np.generic]:
        self._context.check()
        output = runner.first_output({name: a[samples] for name, a in self._part.inputs.items()}, self._inputs.batch)
        self._context.check()
        return output

    def _measured(self, output: NDArray[np.generic], samples: NDArray[np.int64] | slice) -> Measurement:
        labels = None if self.labels is None else self.labels[samples]
        return measure(self._metric, self.float_output[samples], output, labels)


class Evaluator:
    """Measures plans on the search samples until it is certain whether each keeps the budget.

    Every plan is a chunk under its own name. It has its own seeded order of the samples, so that what earlier plans
    showed is fixed before the order is drawn. With `confidence` set only a plan that misses is stopped early: that one
    meets depends on its standard error too, for which all samples are read.

    Args:
        space: points are plans of its `problem`.
        report: called after every evaluation.
    """

    def __init__(
        self,
        context: Context,
        inputs: Inputs,
        space: SearchSpace,
        metric: Metric,
        config: PlanConfig,
        *,
        report: Callable[[], None],
    ) -> None:
        self._context = context
        self._inputs = inputs
        self._space = space
        self._config = config
        self._compare = Comparison(context, inputs, inputs.splits.search, metric)
        self._float = self._compare.of_float()
        self._margins = _Margins(self._compare, metric) if self._float.counts else None
        self._expected = None
        if metric is Metric.TOP1 and self._compare.labels is not None:
            self._expected = ExpectedDrop.of(self._compare.float_output, self._compare.labels)
        self._report = report

    def __call__(self, point: PlanPoint, to_the_end: bool) -> Evaluation:
        name = "evaluated/" + "-".join(map(str, point.plan.choices))
        document, arrays = unpack(self._context.chunk(name, lambda: self._measured(point, to_the_end)))
        if self._margins is not None:
            self._margins.remember(point.damage, arrays["margins"])
        self._report()
        return Evaluation(**document)

    def _measured(self, point: PlanPoint, to_the_end: bool) -> bytes:
        budget = self._config.budget
        whole = self._config.rounds_whole_plans
        model = export_plan(self._context, self._inputs, self._space, point.plan, rounds_whole_plans=whole).file
        predicted = None if self._margins is None else self._margins.predicted(point.damage)
        sampling = Sampling(self._float, budget.max_drop, budget.kind, predicted)
        conclusive = {Verdict.BEYOND} if budget.confidence else {Verdict.BEYOND, Verdict.WITHIN}
        seed = [self._config.samples.seed, *point.plan.choices]
        order = np.random.default_rng(seed).permutation(self._float.samples)
        seen = np.full(self._float.samples, np.nan)
        losses = np.full(self._float.samples, np.nan)
        verdict = Verdict.OPEN
        for read, output, measurement in self._compare.in_order(model, order):
            verdict = sampling.add(measurement, read)
            if self._margins is not None:
                seen[read] = self._margins.of_output(output, read)
            if self._expected is not None:
                losses[read] = self._expected.losses(output, read)
            certain = verdict in conclusive and not to_the_end
            if certain or self._context.time_used(self._config.deadline_seconds) >= 1:
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
        self._context.event(PlanEvaluated({"cost": point.cost, "predicted_damage": point.damage, **document}))
        return pack(document, {"margins": seen})

    def _expected_drop(self, losses: NDArray[np.float64]) -> float | None:
        """The mean of those that are known, of the budget's kind; None where none is."""
        if self._expected is None:
            return None
        relative = self._config.budget.kind is DropKind.RELATIVE
        return float(np.nanmean(losses)) / (self._float.float_value if relative else 1.0)


class _Margins:
    """The margins of the float network and of evaluated plans on all search samples, NaN where a plan was not run."""

    def __init__(self, compare: Comparison, metric: Metric) -> None:
        output = compare.float_output
        # the right class is the label, or for the agreement the float network's own
        labels = compare.labels if metric is Metric.TOP1 else None
        self._classes = np.asarray(output.argmax(-1)) if labels is None else labels
        self._probabilities = are_probabilities(output)
        self._float = self.of_output(output, _ALL)
        self._known: list[tuple[float, Scores]] = []

    def of_output(self, output: NDArray[np.generic], read: NDArray[np.int64] | slice) -> Scores:
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

"""Plans measured: exported, run in ONNX Runtime, and compared with the float network on the same samples."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial

import numpy as np
from numpy.typing import NDArray

from evaluation.control_variate import margins, predicted_losses
from evaluation.expected_drop import ExpectedDrop
from evaluation.metrics.claim import Claim, Measured, everything, measure, scale_of
from evaluation.metrics.measurement import DropKind, Measurement, Outputs, Scores
from evaluation.metrics.pair import are_probabilities
from evaluation.runner import OnnxRunner
from evaluation.sampling import Sampling, can_be_sampled
from evaluation.sequential import Verdict
from pipeline.config import PlanConfig
from pipeline.context import Context
from pipeline.events import PlanEvaluated
from pipeline.foresight import MOST, Foresight
from pipeline.own_metric import own_metric, truth_of, with_graph
from pipeline.plan_export import export_plan
from pipeline.plan_outputs import PlanOutputs
from pipeline.reference import reference_outputs
from pipeline.results import pack, unpack
from pipeline.search_space import SearchSpace
from pipeline.spreading import LONGEST_PAUSE, SHORTEST_PAUSE
from pipeline.stage import UPLOADS, digest_of
from pipeline.workspace import Inputs
from planner.evidence import Evaluation, PlanPoint, cautious
from planner.problem import Plan

OUTPUTS_VERSION = 1  # of what is computed: another one finds nothing that an older one stored
# earlier plans, the nearest in predicted damage, that say how a new one will do on each sample
NEAREST = 3

_ALL = slice(None)


class Comparison:
    """The uploaded network and its quantized versions on one part of the samples.

    Args:
        samples: indices of the part.
        outputs: of the uploaded network, by name; None has it run.
    """

    def __init__(
        self,
        context: Context,
        inputs: Inputs,
        samples: NDArray[np.int64],
        claims: Sequence[Claim],
        kind: DropKind,
        outputs: Outputs | None = None,
    ) -> None:
        self._context = context
        self._inputs = inputs
        self._part = inputs.dataset.take(samples)
        self._kind = kind

        self.float_outputs = _float_outputs(context, inputs, samples) if outputs is None else outputs
        own = own_metric(context, inputs, list(self.float_outputs))
        self._claims = with_graph(claims, own)
        self.truth = truth_of(self._part, own)

    def __call__(self, runner: OnnxRunner) -> Measured:
        """A network measured against the uploaded one on all samples."""
        return self._measured(self._outputs(runner, _ALL), _ALL)

    def outputs_of(self, runner: OnnxRunner, places: NDArray[np.int64]) -> tuple[Outputs, Outputs]:
        """What both networks give for the samples at these places of the part, `[places, ...]` by output."""
        # a network with a fixed batch takes whole batches
        whole = -(-len(places) // (self._inputs.static_batch or 1)) * (self._inputs.static_batch or 1)
        after = self._outputs(runner, np.resize(places, whole))
        before = {name: self.float_outputs[name][places] for name in after}
        return before, {name: output[: len(places)] for name, output in after.items()}

    def of_float(self) -> Measured:
        """The uploaded network against itself: what there is to lose, sample by sample."""
        return self._measured(self.float_outputs, _ALL)

    def of_plan(self, plan: PlanOutputs) -> Measured:
        """A plan measured against the uploaded network on all samples."""
        return self._measured(plan.batch(0, lambda runner: self._outputs(runner, _ALL)), _ALL)

    def in_order(
        self, plan: PlanOutputs, order: NDArray[np.int64]
    ) -> Iterator[tuple[NDArray[np.int64], Outputs, Measured]]:
        """The samples in `order`, a batch at a time: their indices, the plan's outputs, the measurement."""
        for place, start in enumerate(range(0, len(order), self._inputs.batch)):
            read = order[start : start + self._inputs.batch]
            outputs = plan.batch(place, partial(self._outputs, samples=read))
            yield read, outputs, self._measured(outputs, read)

    def _outputs(self, runner: OnnxRunner, samples: NDArray[np.int64] | slice) -> Outputs:
        self._context.check()
        names = list(dict.fromkeys(name for claim in self._claims for name in claim.outputs))
        inputs = {name: array[samples] for name, array in self._part.inputs.items()}
        outputs = runner.outputs(inputs, self._inputs.batch, names)
        self._context.check()
        return outputs

    def _measured(self, outputs: Outputs, samples: NDArray[np.int64] | slice) -> Measured:
        before = {name: self.float_outputs[name][samples] for name in outputs}
        return measure(self._claims, before, outputs, self.truth.take(samples), self._kind)


def _float_outputs(context: Context, inputs: Inputs, samples: NDArray[np.int64]) -> Outputs:
    """What the uploaded network gives, kept for jobs with other budgets."""
    read = [context.keys[name] for name in (*UPLOADS, "normalise")]
    key = digest_of([OUTPUTS_VERSION, read, inputs.config, samples.tolist()])
    return unpack(context.cached(f"outputs/{key}", lambda: pack({}, reference_outputs(context, inputs, samples))))[1]


class Evaluator:
    """Measures plans on the search samples until it is certain whether each keeps the budget.

    Every plan is a chunk under its own name, and so are the outputs that another process has run ahead. Every plan has
    its own seeded order of the samples, so that what earlier plans showed is fixed before the order is drawn. With
    `confidence` set only a plan that misses is stopped early: that one meets depends on its standard error too, for
    which all samples are read.

    Args:
        space: points are plans of its `problem`.
        report: called after every evaluation.
        foresight: tells which plans will be asked for; None where nobody can tell.
    """

    def __init__(
        self,
        context: Context,
        inputs: Inputs,
        space: SearchSpace,
        config: PlanConfig,
        *,
        report: Callable[[], None],
        foresight: Foresight | None = None,
    ) -> None:
        self._context = context
        self._inputs = inputs
        self._space = space
        self._config = config
        self._foresight = foresight
        self._known: dict[Plan, Evaluation] = {}
        claims, reference = context.workspace.claims(), context.workspace.reference()
        search = inputs.splits.search[: reference.samples]
        self._compare = Comparison(context, inputs, search, claims, config.budget.kind, reference.outputs)
        self._float = self._compare.of_float()
        self._margins, self._expected = None, None
        single = self._float.single
        self._sampled = single if single is not None and config.budget.kind is not DropKind.OF_NULL else None
        if self._sampled is not None and not can_be_sampled(self._sampled):
            self._sampled = None
        if self._sampled is not None and self._sampled.counts and of_classes(claims):
            name = claims[0].outputs[0]
            output = self._compare.float_outputs[name]
            labels = self._compare.truth.labels(name) if claims[0].metric == "top1" else None
            self._margins = _Margins(output, labels)
            if labels is not None:
                self._expected = ExpectedDrop.of(output, labels)
        self._report = report

    def __call__(self, point: PlanPoint, to_the_end: bool) -> Evaluation:
        document, arrays = unpack(self._evaluated(point, to_the_end))
        if self._margins is not None:
            self._margins.remember(point.damage, arrays["margins"])
        self._report()
        evaluation = Evaluation(**document)
        self._known[point.plan] = evaluation
        return evaluation

    def _evaluated(self, point: PlanPoint, to_the_end: bool) -> bytes:
        """The evaluation, which is the leader's: it depends on those before. What takes time is running the plan, which
        any process may do, and while another does, this one runs what is foreseen."""
        name, run = f"evaluated/{_named(point)}", f"run/{_named(point)}"
        pause = SHORTEST_PAUSE
        while (evaluated := self._context.stored(name)) is None:
            if not self._context.helping:
                self._context.opened(MOST)
                recorded = self._context.shared(run, lambda: self._measured_here(name, point, to_the_end))
                if recorded is not None:
                    return self._context.chunk(name, partial(self._measured, point, to_the_end, recorded))
            if self._ran_ahead():
                pause = SHORTEST_PAUSE
            else:
                self._context.check()
                time.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
        return evaluated

    def _measured_here(self, name: str, point: PlanPoint, to_the_end: bool) -> bytes:
        """Evaluate a plan that no other process has run; there is nothing to record of it."""
        self._context.chunk(name, lambda: self._measured(point, to_the_end, b""))
        return b""

    def _ran_ahead(self) -> bool:
        """Run one plan that is foreseen; False if there is none that nobody has begun."""
        wanted = [] if self._foresight is None else self._foresight.wanted(self._known)
        return any(
            self._context.ahead(f"run/{_named(point)}", partial(self._recorded, point, to_the_end))
            for point, to_the_end in wanted
        )

    def _recorded(self, point: PlanPoint, to_the_end: bool) -> bytes:
        """The outputs of a plan on as many samples as its evaluation would read, were it the next one."""
        plan = self._outputs(point, records=True)
        if self._sampled is None:
            self._compare.of_plan(plan)
        else:
            self._read_until_certain(plan, point, to_the_end, self._sampled)
        return plan.packed()

    def _outputs(self, point: PlanPoint, recorded: bytes = b"", *, records: bool = False) -> PlanOutputs:
        whole = self._config.rounds_whole_plans

        def export() -> bytes:
            return export_plan(self._context, self._inputs, self._space, point.plan, rounds_whole_plans=whole).file

        return PlanOutputs(self._context, self._inputs, export, recorded, records=records)

    def _measured(self, point: PlanPoint, to_the_end: bool, recorded: bytes) -> bytes:
        plan = self._outputs(point, recorded)
        if self._sampled is None:
            evaluation, seen = self._read_whole(plan), np.zeros(0)
        else:
            evaluation, seen = self._read_until_certain(plan, point, to_the_end, self._sampled)
        document = asdict(evaluation)
        self._context.event(PlanEvaluated({"cost": point.cost, "predicted_damage": point.damage, **document}))
        return pack(document, {"margins": seen})

    def _read_whole(self, plan: PlanOutputs) -> Evaluation:
        """All claims on all samples: what is no mean over samples is known at the end alone."""
        budget, measured = self._config.budget, self._compare.of_plan(plan)
        worst = measured.worst(budget.kind, budget.max_drop)
        claim, part = measured.every[worst]
        return Evaluation(
            drop=measured.drop(budget.kind, budget.max_drop),
            stderr=part.stderr(budget.kind) * scale_of(claim, budget.max_drop),
            samples=measured.samples,
            size_bytes=plan.size_bytes,
        )

    def _read_until_certain(
        self, plan: PlanOutputs, point: PlanPoint, to_the_end: bool, population: Measurement
    ) -> tuple[Evaluation, Scores]:
        """The only claim on as many samples as it takes; and the margins of those that were read."""
        budget = self._config.budget
        claim = self._float.claims[0]
        predicted = None if self._margins is None else self._margins.predicted(point.damage)
        max_drop = budget.max_drop if claim.max_drop is None else claim.max_drop
        scale = scale_of(claim, budget.max_drop)
        sampling = Sampling(population, max_drop, budget.kind, predicted)
        conclusive = {Verdict.BEYOND} if budget.confidence else {Verdict.BEYOND, Verdict.WITHIN}
        seed = [self._config.samples.seed, *point.plan.choices]
        order = np.random.default_rng(seed).permutation(population.samples)
        seen = np.full(population.samples, np.nan)
        losses = np.full(population.samples, np.nan)
        verdict = Verdict.OPEN
        broken = False
        for read, outputs, measured in self._compare.in_order(plan, order):
            verdict = sampling.add(measured.every[0][1], read)
            broken = broken or measured.not_finite > 0
            output = outputs[claim.outputs[0]]
            if self._margins is not None:
                seen[read] = self._margins.of_output(output, read)
            if self._expected is not None:
                losses[read] = self._expected.losses(output, read)
            certain = verdict in conclusive and not to_the_end
            if certain and self._expected is not None and not budget.confidence:
                # of the labels; what is expected may need more samples
                expected = cautious(*self._expected_drop(losses, population, 1.0))
                certain = (expected <= max_drop) == (verdict is Verdict.WITHIN)
            if certain or broken or self._context.time_used(self._config.deadline_seconds) >= 1:
                break
        early = sampling.fraction < 1 and (verdict in conclusive or broken)
        estimate = sampling.estimate()
        expected_drop, expected_stderr = self._expected_drop(losses, population, scale)
        evaluation = Evaluation(
            drop=max(estimate.mean * scale, everything(budget.max_drop)) if broken else estimate.mean * scale,
            stderr=estimate.stderr * scale,
            samples=sampling.samples,
            size_bytes=plan.size_bytes,
            fraction=sampling.fraction,
            within=verdict is Verdict.WITHIN and not broken if early else None,
            expected_drop=None if self._expected is None or broken else expected_drop,
            expected_stderr=expected_stderr,
        )
        return evaluation, seen

    def _expected_drop(self, losses: Scores, population: Measurement, scale: float) -> tuple[float, float]:
        """The mean of those that are known, of the budget's kind, and its standard error; 0 where none is."""
        if self._expected is None:
            return 0.0, 0.0
        known = losses[~np.isnan(losses)]
        scale /= population.float_value if self._config.budget.kind is DropKind.RELATIVE else 1.0
        return scale * float(known.mean()), scale * float(known.std() / math.sqrt(len(known)))


def of_classes(claims: Sequence[Claim]) -> bool:
    """Whether the only claim is about which class comes first."""
    return len(claims) == 1 and claims[0].metric in ("top1", "agreement")


def _named(point: PlanPoint) -> str:
    return "-".join(map(str, point.plan.choices))


class _Margins:
    """The margins of the float network and of evaluated plans on all search samples, NaN where a plan was not run.

    Args:
        output: of the float network, `[samples, classes]`.
        labels: the right classes, None for the float network's own.
    """

    def __init__(self, output: NDArray[np.generic], labels: NDArray[np.int64] | None) -> None:
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

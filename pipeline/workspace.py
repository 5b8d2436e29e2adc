"""What stages share: network, samples, candidates, scores and the search space, each read once in a process.

Whoever asks must name in the stage's `reads` what is behind the answer, or the key would not depend on it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import IO, Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from evaluation.dataset import Dataset, read_dataset, synthesize
from evaluation.errors import MetricNotApplicable
from evaluation.metrics.claim import Claim
from evaluation.outputs import OutputFacts
from evaluation.runner import OnnxRunner
from evaluation.splits import Splits, split, undivided
from network.admission import AdmissionLimits
from network.batching import Batching
from network.graph import Network
from network.memory import normalised_memory
from network.normalise import load
from network.opset import TARGET_OPSET
from network.tensor_spec import TensorSpec
from network.uploaded import as_uploaded
from pipeline.analysis import Analysis, Scores
from pipeline.candidates import Candidates
from pipeline.config import DamageConfig, SampleConfig, SpaceConfig
from pipeline.damage import damage_loss, with_values
from pipeline.latency_table import LatencyTable
from pipeline.results import unpack
from pipeline.search_space import SearchSpace
from pipeline.stage import Machine
from sensitivity.loss import Loss

T = TypeVar("T")
Arrays = dict[str, NDArray[np.generic]]

SYNTHETIC_SAMPLES = 512
GIB = 1 << 30
MOST_IN_A_RUN = 128
MOST_IN_A_BACKWARD_PASS = 64
MOST_IN_A_GROUP = 4096
# What one rounding has of its own moves the damage of a plan by more than further samples would [ResNet20: 675 in place
# of 256 end at 82,562 and 82,379 bytes].
SENSITIVITY_SAMPLES = 256
RANGE_SAMPLES = 512
# A backward pass keeps about every activation, not only the peak of those alive at once.
ACTIVATIONS_PER_PEAK = 16


NOTHING_MEASURABLE = (
    "no output that counts holds floats with the samples along one of its axes, and none is picked from such: what "
    "quantization changes in the network cannot be measured; export it with an output such as logits"
)


class Analysed(Protocol):
    """A slice of a stage that measures damage."""

    @property
    def samples(self) -> SampleConfig: ...

    @property
    def damage(self) -> DamageConfig: ...


class Job(Protocol):
    """What a workspace reads from: the context of a job."""

    machine: Machine

    def path_of(self, kind: str) -> Path | None: ...

    def has(self, stage: str) -> bool: ...

    def read(self, stage: str) -> bytes: ...

    def open(self, stage: str) -> IO[bytes]: ...

    def check_reads(self, stages: Iterable[str]) -> None: ...


class Workspace:
    """What the stages of one job have read so far."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._kept: dict[Hashable, Any] = {}

    def network(self, opset: int = TARGET_OPSET) -> Network:
        """The normalised network.

        The newest opset is for what analyses it, so that jobs that want other opsets share the analysis; an older one
        for what writes it, because operators that are expanded for it round otherwise.

        Raises:
            OpsetNotReachable: the network has nodes that this opset does not have.
        """
        return self._once(("network", opset), ("normalise",), lambda: load(self._job.read("normalise"), opset))

    def dataset(self, specs: tuple[TensorSpec, ...], seed: int, extra: Collection[str] | None = None) -> Dataset:
        """The uploaded samples for these graph inputs, or without any those that are made from their shapes.

        Args:
            extra: names of arrays that may stand beside them; None for any: admission and `claims` judge.
        """
        path = self._job.path_of("dataset")

        def read() -> Dataset:
            if path is None:
                return synthesize(specs, SYNTHETIC_SAMPLES, seed)
            return read_dataset(path, specs, most_dataset_bytes(self._job.machine), extra)

        # shapes are those of the data, and with an upload the seed changes nothing
        names = tuple((spec.name, spec.dtype) for spec in specs)
        return self._once(("dataset", names, None if path else seed), ("dataset",), read)

    def inputs(self, config: SampleConfig, opset: int = TARGET_OPSET) -> Inputs:
        """The network at this opset with its samples, split by the seed; or as it was uploaded, with all of them."""

        def read() -> Inputs:
            network = self._as_uploaded() if config.as_uploaded else self.network(opset)
            dataset = self.dataset(tuple(network.inputs), config.seed)
            divide = undivided if config.as_uploaded else split
            splits = divide(dataset.samples, config.seed, dataset.labels)
            return Inputs(network, dataset, splits, config, self._job.path_of("dataset") is None)

        sources = ("model", "admit_float") if config.as_uploaded else ("normalise",)
        return self._once(("inputs", config, opset), (*sources, "dataset"), read)

    def _as_uploaded(self) -> Network:
        """The network of the uploaded file, which was admitted before."""
        path = self._job.path_of("model")
        if path is None:
            raise LookupError("a job has a model")
        model: ModelProto = ModelProto.FromString(path.read_bytes())
        document, _ = unpack(self._job.read("admit_float"))
        return as_uploaded(model, Batching.of_document(document["batching"]))

    def quantized_batching(self) -> Batching:
        """How the samples become calls of the quantized file that is certified."""

        def read() -> Batching:
            document, _ = unpack(self._job.read("admit_pair"))
            return Batching.of_document(document["batching"])

        return self._once("quantized batching", ("admit_pair",), read)

    def analysed(self, config: Analysed, opset: int = TARGET_OPSET) -> tuple[Inputs, Loss]:
        """The network with its samples, and the loss whose rise is the damage; where that looks at values which are no
        outputs, the network has them as further outputs.

        Raises:
            MetricNotApplicable: nothing that the outputs are made from holds floats.
        """
        inputs, reference = self.inputs(config.samples, opset), self.reference()

        def read() -> tuple[Inputs, Loss]:
            loss = damage_loss(inputs.network, reference.values, config.damage)
            if loss is None:
                raise MetricNotApplicable(NOTHING_MEASURABLE)
            return replace(inputs, network=with_values(inputs.network, loss.outputs, reference.axes)), loss

        return self._once(("analysed", config.samples, config.damage, opset), ("normalise", "dataset"), read)

    def candidates(self) -> Candidates:
        """Every weight and activation in every format that it may get."""
        return self._once("candidates", ("calibrate",), lambda: Candidates.read(self._job.open("calibrate")))

    def scores(self) -> Scores:
        """What the stages `cross_layer` and `sensitivity` say of the candidates."""

        def read() -> Scores:
            return Scores.combined(*(unpack(self._job.read(name)) for name in ("cross_layer", "sensitivity")))

        return self._once("scores", ("cross_layer", "sensitivity"), read)

    def analysis(self) -> Analysis:
        """The scores, with how well each method predicts."""

        def read() -> Analysis:
            agreement, _ = unpack(self._job.read("agreement"))
            return Analysis(self.scores(), agreement)

        return self._once("analysis", ("cross_layer", "sensitivity", "agreement"), read)

    def resolved(self) -> dict[str, Any]:
        """The document of the stage `resolve`."""
        return self._once("resolved", ("resolve",), lambda: unpack(self._job.read("resolve"))[0])

    def reference(self) -> Reference:
        """What the stage `reference` found."""

        def read() -> Reference:
            document, arrays = unpack(self._job.read("reference"))
            outputs = {name.removeprefix("output/"): array for name, array in arrays.items()}
            facts, values = (tuple(map(OutputFacts.of_document, document[key])) for key in ("facts", "values"))
            return Reference(facts, values, outputs, document["axes"], document["samples"])

        return self._once("reference", ("reference",), read)

    def chosen(self) -> dict[str, Any]:
        """The document of the stage `claims`."""
        return self._once("claims", ("claims",), lambda: unpack(self._job.read("claims"))[0])

    def claims(self) -> list[Claim]:
        """What is measured of every plan."""
        return [Claim.of_document(document) for document in self.chosen()["claims"]]

    def space(self, config: SpaceConfig) -> SearchSpace:
        """The search space of the job, with latencies where the request needs them."""
        untimed = self.untimed_space(config)
        if not self._job.has("latency"):
            return untimed

        def complete() -> SearchSpace:
            document, _ = unpack(self._job.read("latency"))
            return untimed.completed(LatencyTable(document))

        return self._once(("space", config), ("latency",), complete)

    def untimed_space(self, config: SpaceConfig) -> SearchSpace:
        """The search space before latencies are known."""
        resolved = self.resolved()
        return self.build_space(config, resolved["allowed"], resolved["tied"])

    def build_space(self, config: SpaceConfig, allowed: dict[str, list[str]], tied: list[list[str]]) -> SearchSpace:
        """The search space as `resolve` builds it from what the request leaves to each site."""

        def build() -> SearchSpace:
            return SearchSpace.build(self.network(config.export.opset), config, allowed, tied)

        return self._once(("untimed space", config), ("normalise",), build)

    def _once(self, key: Hashable, reads: tuple[str, ...], make: Callable[[], T]) -> T:
        self._job.check_reads(reads)
        if key not in self._kept:
            self._kept[key] = make()
        return self._kept[key]  # type: ignore[no-any-return]


def admission_limits(machine: Machine) -> AdmissionLimits:
    """One sample of a network, or of a metric graph, may take all memory of the worker."""
    return AdmissionLimits(max_memory_bytes=machine.memory_limit_bytes or 8 * GIB)


def most_dataset_bytes(machine: Machine) -> int:
    """A dataset may take half of the memory that the worker may use."""
    return (machine.memory_limit_bytes or 8 * GIB) // 2


@dataclass(frozen=True, eq=False)
class Reference:
    """What the stage `reference` found: facts about each output of the uploaded file, and its `outputs` on the first
    `samples` of the search samples, `[samples, ...]` by name. `values`: the same facts about the values that damage is
    measured at, which are outputs or what these are picked from; `axes`: of the samples in those that are no outputs,
    where that is not the first."""

    facts: tuple[OutputFacts, ...]
    values: tuple[OutputFacts, ...]
    outputs: dict[str, NDArray[np.generic]]
    axes: dict[str, int | None]
    samples: int


@dataclass(frozen=True)
class Inputs:
    """A network with its samples, and how many of them run at once; `synthetic`: there was no upload of any."""

    network: Network
    dataset: Dataset
    splits: Splits
    config: SampleConfig
    synthetic: bool

    @property
    def static_batch(self) -> int | None:
        """The batch size that the graph fixes, None where it leaves it free."""
        return self.network.static_batch

    @property
    def sample_bytes(self) -> int:
        """The activations of one sample that are alive at once."""
        return self._batch_bytes // (self.static_batch or 1)

    @property
    def batch(self) -> int:
        """Samples of one forward run."""
        return self.static_batch or _clamp(self.config.run_bytes // self._batch_bytes, MOST_IN_A_RUN)

    @property
    def backward_batch(self) -> int:
        """Samples of one backward pass; 1 where not any of them may share a call."""
        return self._most_backward if self._all_share_calls else 1

    @property
    def _most_backward(self) -> int:
        fitting = self.config.run_bytes // (ACTIVATIONS_PER_PEAK * self._batch_bytes)
        return self.static_batch or _clamp(2 * fitting, MOST_IN_A_BACKWARD_PASS)

    @cached_property
    def _all_share_calls(self) -> bool:
        return self.network.batching.shares_calls(self.dataset.inputs)

    @property
    def group(self) -> int:
        """Samples whose activations at one cut of the network may be kept at once; a multiple of `batch`."""
        fitting = _clamp(self.config.kept_bytes // self._batch_bytes, MOST_IN_A_GROUP)
        return max(fitting // self.batch, 1) * self.batch

    @property
    def sensitivity_samples(self) -> NDArray[np.int64]:
        """The samples that candidates are scored on: half of the search's, at most `SENSITIVITY_SAMPLES`, or one batch.

        None of the calibration: GPTQ fits the weights to those, which would flatter the formats with the fewest bits.
        The other half compares the methods with plans that are measured.
        """
        half = max(1, len(self.splits.search) // 2)
        return self.splits.search[: max(min(SENSITIVITY_SAMPLES, half), self.static_batch or 0)]

    def last_of_search(self, most: int) -> NDArray[np.int64]:
        """The last samples of the search, at most `most` and no more than may be alive at once, or one batch."""
        return self.splits.search[-max(min(most, self.group), self.static_batch or 0) :]

    @property
    def range_samples(self) -> NDArray[np.int64]:
        """The calibration samples that ranges of activations are taken from: `RANGE_SAMPLES`, or one batch."""
        return self.splits.calibration[: max(RANGE_SAMPLES, self.static_batch or 0)]

    @cached_property
    def output_shapes(self) -> dict[str, list[tuple[int, ...]]]:
        """The shapes that an output of one sample has, by name, of samples of each length; empty where all samples have
        the same lengths."""
        samples, network = self.dataset.inputs, self.network
        if all(array.dtype != object for array in samples.values()):
            return {}
        runner = OnnxRunner(network.proto, threads=1, batching=network.batching)
        shapes: dict[str, list[tuple[int, ...]]] = {name: [] for name in runner.output_names}
        seen: set[tuple[tuple[int, ...], ...]] = set()
        for index in range(self.dataset.samples):
            lengths = tuple(np.shape(array[index]) for array in samples.values())
            if lengths not in seen:
                seen.add(lengths)
                outputs = runner.outputs({name: array[index : index + 1] for name, array in samples.items()}, 1)
                for name in set(outputs) - runner.without_samples:
                    shapes[name].append(outputs[name].shape[1:])
        return {name: own for name, own in shapes.items() if len({len(shape) for shape in own}) == 1}

    @property
    def longest_outputs(self) -> dict[str, tuple[int, ...]]:
        """The largest shape of an output of one sample, where samples have different lengths."""
        return {name: tuple(map(max, zip(*own, strict=True))) for name, own in self.output_shapes.items()}

    @property
    def varying_axes(self) -> dict[str, frozenset[int]]:
        """By output the axes of `[samples, ...]` whose lengths differ from sample to sample."""
        return {
            name: frozenset(axis for axis, of in enumerate(zip(*own, strict=True), start=1) if len(set(of)) > 1)
            for name, own in self.output_shapes.items()
        }

    @property
    def latency_sample(self) -> Arrays:
        """What a latency is that of one run of: one sample, or the batch that the network fixes."""
        return self.take(self.splits.search[: self.static_batch or 1])

    def take(self, indices: NDArray[np.int64]) -> Arrays:
        """The input arrays of these samples; with a fixed batch size only as many as fill whole batches."""
        whole = len(indices) // self.static_batch * self.static_batch if self.static_batch else len(indices)
        return {name: array[indices[:whole]] for name, array in self.dataset.inputs.items()}

    def backward_batches(self, indices: NDArray[np.int64]) -> Iterator[Arrays]:
        """The input arrays of these samples, as many at once as may share a call and go through a backward pass."""
        yield from self.network.batching.batches(self.take(indices), self._most_backward)

    @cached_property
    def _batch_bytes(self) -> int:
        estimate = normalised_memory(self.network, self.static_batch or 1)
        return max(estimate.activation_bytes, 1)


def _clamp(fitting: int, most: int) -> int:
    return max(1, min(fitting, most))

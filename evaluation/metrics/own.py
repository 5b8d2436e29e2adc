"""A metric of the user's own: an ONNX graph that gives one number for each sample, run in ONNX Runtime.

What a graph reads is said by the names of its inputs, the first that fits:

1. an output of the network: that of the network that is measured;
2. `reference.NAME`: the output NAME of the float network. Spelled with a dot, like `labels.NAME` of a dataset;
3. an input of the network;
4. an array of the dataset: `labels`, `targets`, `boxes`, each also as `labels.NAME`, or any further one.

A sample is a row of the first axis. Where the graph leaves the batch free it gives `[N]` or `[N, 1]`; where it fixes
the batch to 1, a single number. What a sample gets may not depend on the samples beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, Self

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto

from evaluation.errors import MetricGraphInvalid, MetricNotApplicable
from evaluation.metrics.measurement import Measurement, Output, Outputs, Scores, Unit
from evaluation.metrics.null_outputs import mean_outputs, other_samples
from evaluation.metrics.pair import Pair
from evaluation.metrics.truth import Truth
from evaluation.session import deterministic_session
from network.admission import AdmissionLimits, admit
from network.errors import NetworkError
from network.runtime import runtime_errors
from network.tensor_spec import TensorSpec, input_specs

OWN = "own"
"""The name of the metric in claims and certificates."""

REFERENCE = "reference"
HIGHER_IS_BETTER = "higher_is_better"
LARGEST = 1e100
"""Numbers must not be larger: sums of their squares would overflow in float64."""

MOST_AT_ONCE = 64
INPUT_BYTES = 8 << 20  # of the samples that run at once
_FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16)
_PROBED = 6  # samples that are run again beside others
# What the order of additions changes is far below; what is smaller changes no verdict.
_SAME = 1e-4


class Role(Enum):
    """What an input of the graph reads."""

    OUTPUT = auto()
    REFERENCE = auto()
    INPUT = auto()
    ARRAY = auto()


@dataclass(frozen=True, slots=True)
class Readable:
    """The names that a graph can read: outputs and inputs of the network, arrays of the dataset."""

    outputs: tuple[str, ...]
    inputs: tuple[str, ...]
    arrays: tuple[str, ...]

    def role(self, name: str) -> tuple[Role, str]:
        """What the graph input `name` reads.

        Raises:
            MetricGraphInvalid: nothing has this name.
        """
        kind, _, rest = name.partition(".")
        if name in self.outputs:
            return Role.OUTPUT, name
        if kind == REFERENCE and rest in self.outputs:
            return Role.REFERENCE, rest
        if name in self.inputs:
            return Role.INPUT, name
        if name in self.arrays:
            return Role.ARRAY, name
        references = [f"{REFERENCE}.{output}" for output in self.outputs]
        raise MetricGraphInvalid(
            f"input {name!r} of the metric graph is nothing that it can read; there are the outputs "
            f"{_listing(self.outputs)}, those of the float network as {_listing(references)}, the network's inputs "
            f"{_listing(self.inputs)}, and in the data {_listing(self.arrays)}: rename the input, or add the array"
        )


@dataclass(frozen=True, slots=True)
class GraphInput:
    """An input of the graph, and what feeds it."""

    spec: TensorSpec
    role: Role
    source: str

    @property
    def name(self) -> str:
        return self.spec.name


class OwnMetric:
    """A metric graph, ready to run on this network and these data.

    Args:
        session: of the admitted graph, which has one output.
        inputs: what feeds it.
        batch: the batch that the graph fixes, None where it is free.
        check: called before every run; what it raises ends the measurement.
    """

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        inputs: Sequence[GraphInput],
        batch: int | None,
        check: Callable[[], None],
    ) -> None:
        self._session = session
        self._inputs = tuple(inputs)
        self._batch = batch
        self._check = check
        self._output = session.get_outputs()[0].name

    @classmethod
    def of(
        cls,
        data: bytes,
        readable: Readable,
        limits: AdmissionLimits,
        threads: int,
        check: Callable[[], None] = lambda: None,
    ) -> Self:
        """The metric in an ONNX file.

        Raises:
            MetricGraphInvalid: it is not admitted, as a network would not be; it has not one output of floats; it reads
                what is not there, or no output of the network that is measured.
        """
        try:
            model = admit(data, limits)
            session = deterministic_session(model.SerializeToString(), threads)
        except NetworkError as error:
            raise MetricGraphInvalid(f"the metric graph is checked as a network is, and refused: {error}") from error
        _require_one_number(model.graph)
        inputs = [GraphInput(spec, *readable.role(spec.name)) for spec in input_specs(model)]
        if not any(each.role is Role.OUTPUT for each in inputs):
            raise MetricGraphInvalid(
                f"the metric graph reads {_listing([each.name for each in inputs])}, and no output of the network that "
                f"is measured, so that nothing could change its number; name an input after one of "
                f"{_listing(readable.outputs)}"
            )
        return cls(session, inputs, _fixed_batch(inputs), check)

    @property
    def outputs(self) -> tuple[str, ...]:
        """The outputs that it reads of either network, those of the measured one first."""
        roles = (Role.OUTPUT, Role.REFERENCE)
        return tuple(dict.fromkeys(name for role in roles for name in self._sources(role)))

    @property
    def network_inputs(self) -> tuple[str, ...]:
        """The inputs of the network that it reads."""
        return self._sources(Role.INPUT)

    @property
    def arrays(self) -> tuple[str, ...]:
        """The arrays of the dataset that it reads."""
        return self._sources(Role.ARRAY)

    def measure(self, pair: Pair) -> list[Measurement]:
        """The mean of the numbers of both networks; what a sample loses is the difference of its two.

        A number of the quantized network that is NaN, infinite or above 1e100 counts as the worst that was seen: among
        both networks' numbers on these samples, and those of two networks that know nothing (`evaluation.nulls`). So
        it costs at least what knowing nothing costs, and no more than something that was really measured.

        Raises:
            MetricNotApplicable: a number of the float network is not finite.
            MetricGraphInvalid: the graph fails, or does not give one number for each sample.
        """
        before, after = (dict(zip(pair.names, outputs, strict=True)) for outputs in (pair.before, pair.after))
        higher = bool(pair.options.get(HIGHER_IS_BETTER, True))
        floats, quantized = (self.numbers(before, outputs, pair.truth) for outputs in (before, after))
        usable = _usable(floats)
        if not usable.all():
            place = int(np.argmin(usable))
            raise MetricNotApplicable(
                f"your own metric gives {floats[place]:g} for sample {place} of the float network; expected finite "
                "numbers up to 1e100: guard divisions and logarithms in the graph, or repair this sample"
            )
        usable = _usable(quantized)
        seen = np.concatenate([floats, quantized[usable]])
        if not usable.all() or np.ptp(floats - quantized) == 0:
            seen = np.concatenate([seen, *self._of_nulls(before, pair.truth)])
        quantized = np.where(usable, quantized, seen.min() if higher else seen.max())
        contributions = floats - quantized if higher else quantized - floats
        return [
            Measurement(
                OWN,
                float(floats.mean()),
                float(quantized.mean()),
                contributions,
                floats,
                unit=Unit.NONE,
                extent=float(np.ptp(seen)),
            )
        ]

    def numbers(self, before: Outputs, after: Outputs, truth: Truth) -> Scores:
        """The graph's number of each sample, `[samples]`, with `after` as the outputs of the measured network.

        Raises:
            MetricGraphInvalid: the graph fails, takes other shapes or types, or gives something else.
        """
        return self._numbers([self._source(each, before, after, truth) for each in self._inputs], self._most)

    def require_samples_apart(self, before: Outputs, truth: Truth) -> None:
        """Refuse a graph that mixes samples: a few get the same numbers in another order and beside others.

        Raises:
            MetricGraphInvalid: they do not; or as `numbers`.
        """
        if self._batch == 1:
            return
        for after in (before, other_samples(before)):
            arrays = [self._source(each, before, after, truth) for each in self._inputs]
            count = min(len(arrays[0]), max(_PROBED, 2 * (self._batch or 1)))
            first = [array[:count] for array in arrays]
            order = np.roll(np.arange(count)[::-1], 1)
            expected = self._numbers(first, count)
            again = np.empty(count)
            again[order] = self._numbers([array[order] for array in first], max(1, count - 2))
            _require_same(expected, again)

    def _of_nulls(self, before: Outputs, truth: Truth) -> list[Scores]:
        """The numbers of two networks that know nothing, but for those that are not finite."""
        nulls = [self.numbers(before, null, truth) for null in (other_samples(before), mean_outputs(before))]
        return [numbers[_usable(numbers)] for numbers in nulls]

    def _sources(self, role: Role) -> tuple[str, ...]:
        return tuple(each.source for each in self._inputs if each.role is role)

    def _source(self, each: GraphInput, before: Outputs, after: Outputs, truth: Truth) -> Output:
        places: Mapping[Role, Mapping[str, Output]] = {
            Role.OUTPUT: after,
            Role.REFERENCE: before,
            Role.INPUT: truth.inputs,
            Role.ARRAY: truth.arrays,
        }
        array = places[each.role][each.source]
        _require_shape(each.spec, array)
        return array

    @property
    def _most(self) -> int:
        return self._batch or MOST_AT_ONCE

    def _numbers(self, arrays: Sequence[Output], most: int) -> Scores:
        """`[samples]`, of `[samples, ...]` for each input, at most so many at once."""
        samples = len(arrays[0])
        of_sample = max(1, sum(array[:1].nbytes for array in arrays))
        size = self._batch or max(1, min(most, INPUT_BYTES // of_sample))
        numbers = np.empty(samples)
        for start in range(0, samples, size):
            self._check()
            stop = min(start + size, samples)
            rows = np.arange(start, stop)
            if self._batch is not None:  # the last batch is filled up with copies of its last sample
                rows = np.minimum(np.arange(start, start + size), samples - 1)
            feed = {
                each.name: _converted(array[rows], each.spec) for each, array in zip(self._inputs, arrays, strict=True)
            }
            numbers[start:stop] = self._run(feed, len(rows))[: stop - start]
        return numbers

    def _run(self, feed: dict[str, Output], fed: int) -> Scores:
        try:
            with runtime_errors("run"):
                (result,) = self._session.run([self._output], feed)
        except NetworkError as error:
            raise MetricGraphInvalid(
                f"the metric graph fails on {fed} samples: {error}; a graph that takes one sample at a time fixes its "
                "batch to 1"
            ) from error
        got: NDArray[Any] | None = result if isinstance(result, np.ndarray) else None
        if got is not None and (got.shape in ((fed,), (fed, 1)) or (self._batch == 1 and got.size == 1)):
            return got.reshape(-1).astype(np.float64)
        shape = type(result).__name__ if got is None else f"the shape {list(got.shape)}"
        raise MetricGraphInvalid(
            f"output {self._output!r} of the metric graph has {shape} for {fed} samples; expected "
            f"one number for each, [{fed}] or [{fed}, 1]: reduce over every axis but the first, or fix the batch of "
            "the graph's inputs to 1 and give a single number"
        )


def _require_one_number(graph: onnx.GraphProto) -> None:
    if len(graph.output) != 1:
        names = _listing([value.name for value in graph.output])
        raise MetricGraphInvalid(
            f"the metric graph has {len(graph.output)} outputs ({names}); expected one, the number of each sample: "
            "combine them, or leave the others out"
        )
    value = graph.output[0]
    kind = value.type.tensor_type.elem_type
    if kind not in _FLOATS:
        raise MetricGraphInvalid(
            f"output {value.name!r} of the metric graph holds {TensorProto.DataType.Name(kind).lower()}; expected "
            "float, float16 or double: put a Cast at its end"
        )


def _fixed_batch(inputs: Sequence[GraphInput]) -> int | None:
    for each in inputs:
        if not each.spec.shape:
            raise MetricGraphInvalid(
                f"input {each.name!r} of the metric graph has no axis; expected the samples along its first axis: "
                "a constant is an initializer"
            )
    sizes = {each.name: each.spec.shape[0] for each in inputs if each.spec.shape[0] is not None}
    if len(set(sizes.values())) > 1:
        raise MetricGraphInvalid(
            f"the inputs of the metric graph fix different batches on their first axis: {sizes}; expected one, or a "
            "free axis"
        )
    return next(iter(sizes.values()), None)


def _require_shape(spec: TensorSpec, array: Output) -> None:
    fits = array.ndim == len(spec.shape) and all(
        expected in (None, got) for got, expected in zip(array.shape[1:], spec.shape[1:], strict=True)
    )
    if not fits:
        takes = ["N", *("any" if length is None else length for length in spec.shape[1:])]
        raise MetricGraphInvalid(
            f"input {spec.name!r} of the metric graph takes the shape {_shape(takes)}, and what it reads has "
            f"{_shape(['N', *array.shape[1:]])}: declare the input in the shape of what it reads"
        )


def _converted(array: Output, spec: TensorSpec) -> Output:
    """The array in the type of the graph's input, where that loses nothing but digits of floats."""
    dtype = np.dtype(spec.dtype)
    if array.dtype == dtype:
        return np.ascontiguousarray(array)
    taken = {"f": "fiub", "i": "iub", "u": "iub", "b": "b"}[dtype.kind]
    if array.dtype.kind in taken:
        with np.errstate(over="ignore", invalid="ignore"):
            converted: NDArray[Any] = array.astype(dtype)
            fits = array.dtype.kind == "f" or np.array_equal(converted.astype(array.dtype), array)
        if fits:
            return np.ascontiguousarray(converted)
    raise MetricGraphInvalid(
        f"input {spec.name!r} of the metric graph takes {dtype}, and what it reads holds {array.dtype}, whose values "
        f"do not all fit: declare the input as {array.dtype} and put a Cast behind it"
    )


def _require_same(expected: Scores, again: Scores) -> None:
    """Numbers of the same samples, in two runs; where one is not finite both must be."""
    usable = _usable(expected)
    scale = float(np.abs(expected[usable]).max(initial=0.0))
    differ = usable != _usable(again)
    differ[~differ & usable] = np.abs((expected - again)[~differ & usable]) > _SAME * scale
    if differ.any():
        place = int(np.argmax(differ))
        raise MetricGraphInvalid(
            f"the metric graph mixes samples: sample {place} gets {expected[place]:g}, and {again[place]:g} in another "
            "order beside others; expected a number that depends on its own sample alone: reduce over every axis but "
            "the first, or fix the batch of the graph's inputs to 1"
        )


def _usable(numbers: Scores) -> NDArray[np.bool_]:
    return np.asarray(np.isfinite(numbers) & (np.abs(numbers) <= LARGEST))


def _shape(lengths: Sequence[int | str]) -> str:
    return "[" + ", ".join(map(str, lengths)) + "]"


def _listing(names: Sequence[str], most: int = 10) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return (", ".join(repr(name[:80]) for name in names[:most]) or "none") + more

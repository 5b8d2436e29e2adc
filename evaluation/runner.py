"""Running an ONNX file in ONNX Runtime: the exported file itself, as the user will run it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto

from evaluation.metrics.padding import filled_up
from evaluation.session import deterministic_session, session_options, session_with
from network.batching import Batching
from network.errors import ModelNotTaken
from network.runtime import SideBySide, runtime_errors
from network.weight_folder import WeightFolder

Arrays = Mapping[str, NDArray[np.generic]]


class OnnxRunner:
    """One ONNX file on ONNX Runtime's CPU provider.

    A graph that fixes its batch size runs in that size, whatever `batch` says; the last batch is filled up with copies
    of its last sample, whose results are dropped. The same file, samples, batch and threads give the same bits.

    Args:
        model: the file, its bytes or the message in it, admitted before (`network.admission`): it is run as it is.
        threads: threads within an operator, at least 1.
        runs: parts of a batch that run at once, each on so many threads (`network.runtime.SideBySide`); 1 for a graph
            that fixes its batch size.
        exact: integer kernels may not saturate between products, as those of x86 processors without VNNI do.
        batching: how samples become calls; None: along the first axis of every input.
        longest: the largest shape that an output of one sample has, by name, where samples have different lengths. A
            shorter one is filled up with its own rows again, which changes no mean over them much.
        weights: a folder that has initializers which the message lacks.

    `without_samples` are the outputs that were found to have no axis of samples, as far as any were computed.

    Raises:
        ValueError: `threads` or `runs` is not positive.
        ModelInvalid: ONNX Runtime refuses the file.
        ModelTooLarge: loading it takes more memory than this process may use.
    """

    def __init__(
        self,
        model: bytes | Path | ModelProto,
        threads: int,
        runs: int = 1,
        *,
        exact: bool = False,
        batching: Batching | None = None,
        longest: Mapping[str, Sequence[int]] = MappingProxyType({}),
        weights: WeightFolder | None = None,
    ) -> None:
        for name, number in (("threads", threads), ("runs", runs)):
            if number < 1:
                raise ValueError(f"{name} must be at least 1, got {number}")
        self._session = deterministic_session(model, threads, exact=exact, weights=weights)
        self._inputs = [value.name for value in self._session.get_inputs()]
        self._longest = longest
        self.without_samples: set[str] = set()
        self.output_names = [value.name for value in self._session.get_outputs()]
        self._batching = batching or _first_axis(self._session)
        self.static_batch: int | None = self._batching.size
        self._cores = SideBySide(1 if self.static_batch else runs, threads)

    def first_output(self, inputs: Arrays, batch: int) -> NDArray[np.generic]:
        """The first output alone, as `outputs` gives it."""
        name = self.output_names[0]
        return self.outputs(inputs, batch, [name])[name]

    def outputs(self, inputs: Arrays, batch: int, names: Sequence[str] | None = None) -> dict[str, NDArray[np.generic]]:
        """The outputs `[samples, ...]` by name, in the order of the file, for samples `[samples, ...]` by input name.

        Where an output has no sample axis, because its length depends on what is found in the samples, all are computed
        sample by sample; its arrays are filled up to one shape, with NaN, -1, or 0 where the type has neither.

        Args:
            names: of the outputs that are wanted; None for all. No other is computed.

        Raises:
            ModelInvalid: the network fails on these samples, or has no sample axis though it fixes its batch.
            ModelTooLarge: a batch takes more memory than this process may use.
            ValueError: inputs are missing, or `batch` is not positive.
        """
        names = self.output_names if names is None else list(names)
        outputs: dict[str, NDArray[np.generic]] = {}
        for rows, feed in self._batches(inputs, batch):
            parts = self._cores.parts(0, len(feed[self._inputs[0]]))
            feeds = [{name: array[part] for name, array in feed.items()} for part in parts]
            for part, results in zip(parts, self._cores.map(lambda f: self._call(names, f), feeds), strict=True):
                kept = rows[part]
                for name, result in zip(names, map(self._filled, names, results), strict=True):
                    if (
                        self._without_axis(name)
                        or not _has_sample_axis(result, part.stop - part.start)
                        or (name in outputs and result.shape[1:] != outputs[name].shape[1:])
                    ):
                        return self._by_sample(inputs, names, name, result)
                    if name not in outputs:
                        outputs[name] = np.empty((self._samples(inputs), *result.shape[1:]), result.dtype)
                    outputs[name][kept] = result[: len(kept)]
        return outputs

    def _call(self, names: list[str], samples: Arrays) -> list[NDArray[np.generic]]:
        """The outputs of samples that share a call, `[samples, ...]` where they have an axis of samples."""
        results = self._run(names, self._batching.call(samples))
        return [
            result if self._without_axis(name) else self._batching.by_sample(name, result)
            for name, result in zip(names, results, strict=True)
        ]

    def _without_axis(self, name: str) -> bool:
        """Whether an output was found to have no axis of samples, though samples share calls. Where they do not, all of
        it is that of the sample."""
        return self._batching.output_axis(name) is None and self.static_batch != 1

    def _filled(self, name: str, result: NDArray[np.generic]) -> NDArray[np.generic]:
        """`[samples, ...]` with the rows of each sample repeated up to those of the longest."""
        longest = self._longest.get(name)
        if longest is None or result.ndim != 1 + len(longest):
            return result
        for axis, length in enumerate(longest, start=1):
            own = result.shape[axis]
            if own == 0 < length:
                result = np.zeros((*result.shape[:axis], length, *result.shape[axis + 1 :]), result.dtype)
            elif own < length:
                result = np.take(result, np.arange(length) % own, axis=axis)
        return result

    def _run(self, names: list[str], feed: Arrays) -> list[NDArray[np.generic]]:
        with runtime_errors("run"):
            results = self._session.run(names, dict(feed))
        for name, result in zip(names, results, strict=True):
            if not isinstance(result, np.ndarray):
                raise ModelNotTaken(f"output {name!r} is a {type(result).__name__}; expected a tensor")
        return list(results)

    def _by_sample(
        self, inputs: Arrays, names: list[str], odd: str, result: NDArray[np.generic]
    ) -> dict[str, NDArray[np.generic]]:
        """All outputs, one sample at a time; `odd` with this `result` is why."""
        if self.static_batch not in (None, 1):
            raise ModelNotTaken(
                f"output {odd!r} has the shape {list(result.shape)} for {self.static_batch} samples; expected the "
                "samples along its first axis: export the network with the batch axis first in every output, or with a "
                "batch of 1"
            )
        single = [
            self._call(names, {name: inputs[name][i : i + 1] for name in self._inputs})
            for i in range(self._samples(inputs))
        ]
        by_name = {name: [results[index] for results in single] for index, name in enumerate(names)}
        for name, results in by_name.items():
            if self._batching.output_axis(name) is None and len({result.shape for result in results}) > 1:
                by_name[name] = [result[0] if self.static_batch == 1 else result for result in results]
        self.without_samples |= {name for name, results in by_name.items() if not _are_samples(results)}
        return {name: _stacked(results) for name, results in by_name.items()}

    def _samples(self, inputs: Arrays) -> int:
        missing = [name for name in self._inputs if name not in inputs]
        if missing or not self._inputs:
            raise ValueError(f"expected arrays for the inputs {self._inputs}, missing: {missing}")
        counts = {len(inputs[name]) for name in self._inputs}
        if len(counts) != 1 or 0 in counts:
            raise ValueError(f"expected the same number of samples in all inputs, at least 1, got {sorted(counts)}")
        return counts.pop()

    def _batches(
        self, inputs: Arrays, batch: int
    ) -> Iterator[tuple[NDArray[np.int64], dict[str, NDArray[np.generic]]]]:
        """Samples that share a call, with their places; where their number is fixed, copies of the last fill it up."""
        if batch < 1:
            raise ValueError(f"batch must be at least 1, got {batch}")
        places = np.arange(self._samples(inputs))
        given = {name: inputs[name] for name in self._inputs}
        for rows in self._batching.groups(given, batch):
            feed = {name: array[rows] for name, array in given.items()}
            missing = (self.static_batch or 0) - len(places[rows])
            if missing > 0:
                feed = {name: np.concatenate([a, np.repeat(a[-1:], missing, axis=0)]) for name, a in feed.items()}
            yield places[rows], feed


def _first_axis(session: onnxruntime.InferenceSession) -> Batching:
    """Samples lie along the first axis of every input, and a scalar belongs to the whole call."""
    shapes = {value.name: value.shape for value in session.get_inputs()}
    sizes = {shape[0] for shape in shapes.values() if shape and isinstance(shape[0], int)}
    if len(sizes) > 1:
        raise ModelNotTaken(
            f"the network's inputs fix different batch sizes {sorted(sizes)} on their first axis; the first axis "
            "must be the samples: export it with one batch size, or a dynamic one"
        )
    return Batching({name: None for name, shape in shapes.items() if not shape}, {}, next(iter(sizes), None))


def _has_sample_axis(result: NDArray[np.generic], fed: int) -> bool:
    return result.ndim > 0 and len(result) == fed


def _are_samples(results: Sequence[NDArray[np.generic]]) -> bool:
    """Whether single samples have an axis of length 1 in front, each."""
    return all(result.ndim > 0 and len(result) == 1 for result in results)


def _stacked(results: Sequence[NDArray[np.generic]]) -> NDArray[np.generic]:
    """`[samples, ...]` of what each sample gave; where their first axis is always 1 that is the sample's."""
    if _are_samples(results):
        results = [result[0] for result in results]
    return filled_up(results, np.max([result.shape for result in results], axis=0))


def timed_session(model: bytes, inputs: Arrays, threads: int) -> Callable[[], None]:
    """A run of the file on these inputs, to be timed: loaded, with the options that a user would take.

    Raises:
        ModelInvalid, ModelTooLarge: ONNX Runtime refuses the file; the returned run raises them too.
    """
    session = session_with(model, session_options(threads))
    feed = {name: np.asarray(array, order="C") for name, array in inputs.items()}

    def run() -> None:
        with runtime_errors("run"):
            session.run(None, feed)

    return run

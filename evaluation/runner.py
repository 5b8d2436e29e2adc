"""Running an ONNX file in ONNX Runtime: the exported file itself, as the user will run it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from network.errors import ModelInvalid
from network.runtime import FATAL, SideBySide, runtime_errors

Arrays = Mapping[str, NDArray[np.generic]]


class OnnxRunner:
    """One ONNX file on ONNX Runtime's CPU provider.

    The first graph output is *the* output, which every metric is about; no other is computed.
    A graph that fixes its batch size runs in that size, whatever `batch` says; the last batch is filled up with copies
    of its last sample, whose results are dropped. The same file, samples, batch and threads give the same bits.

    Args:
        model: the file, admitted before (`network.admission`): it is run as it is.
        threads: threads within an operator, at least 1.
        runs: parts of a batch that run at once, each on so many threads (`network.runtime.SideBySide`); 1 for a graph
            that fixes its batch size.
        exact: integer kernels may not saturate between products, as those of x86 processors without VNNI do.

    Raises:
        ValueError: `threads` or `runs` is not positive.
        ModelInvalid: ONNX Runtime refuses the file.
        ModelTooLarge: loading it takes more memory than this process may use.
    """

    def __init__(self, model: bytes, threads: int, runs: int = 1, *, exact: bool = False) -> None:
        for name, number in (("threads", threads), ("runs", runs)):
            if number < 1:
                raise ValueError(f"{name} must be at least 1, got {number}")
        options = _options(threads)
        options.use_deterministic_compute = True
        if exact:
            options.add_session_config_entry("session.x64quantprecision", "1")
        self._session = _session(model, options)
        self._inputs = [value.name for value in self._session.get_inputs()]
        self._output = self._session.get_outputs()[0].name
        fixed = {value.shape[0] for value in self._session.get_inputs() if value.shape}
        sizes = {size for size in fixed if isinstance(size, int)}
        if len(sizes) > 1:
            raise ModelInvalid(
                f"the network's inputs fix different batch sizes {sorted(sizes)} on their first axis; the first axis "
                "must be the samples: export it with one batch size, or a dynamic one"
            )
        self.static_batch: int | None = next(iter(sizes), None)
        self._cores = SideBySide(1 if self.static_batch else runs, threads)

    def first_output(self, inputs: Arrays, batch: int) -> NDArray[np.generic]:
        """The first output, `[samples, ...]`, for samples `[samples, ...]` by input name.

        Raises:
            ModelInvalid: the network fails on these samples, or the output has no sample axis.
            ModelTooLarge: a batch takes more memory than this process may use.
            ValueError: inputs are missing, or `batch` is not positive.
        """
        output: NDArray[np.generic] = np.empty(0)

        def run(feed: Arrays) -> Any:
            with runtime_errors("run"):
                return self._session.run([self._output], feed)[0]

        start = 0
        for feed, kept in self._batches(inputs, batch):
            parts = self._cores.parts(0, len(feed[self._inputs[0]]))
            results = self._cores.map(run, [{name: array[part] for name, array in feed.items()} for part in parts])
            for part, result in zip(parts, results, strict=True):
                self._check_sample_axis(result, part.stop - part.start)
                if start == part.start == 0:
                    output = np.empty((self._samples(inputs), *result.shape[1:]), result.dtype)
                elif result.shape[1:] != output.shape[1:]:
                    raise ModelInvalid(
                        f"output {self._output!r} changes its shape with the samples: {result.shape[1:]} after "
                        f"{output.shape[1:]}; expected one shape for all"
                    )
                stop = min(part.stop, kept)
                output[start + part.start : start + stop] = result[: stop - part.start]
            start += kept
        return output

    def _samples(self, inputs: Arrays) -> int:
        missing = [name for name in self._inputs if name not in inputs]
        if missing or not self._inputs:
            raise ValueError(f"expected arrays for the inputs {self._inputs}, missing: {missing}")
        counts = {len(inputs[name]) for name in self._inputs}
        if len(counts) != 1 or 0 in counts:
            raise ValueError(f"expected the same number of samples in all inputs, at least 1, got {sorted(counts)}")
        return counts.pop()

    def _batches(self, inputs: Arrays, batch: int) -> Iterator[tuple[dict[str, NDArray[np.generic]], int]]:
        """Each feed with the number of its samples that are real."""
        if batch < 1:
            raise ValueError(f"batch must be at least 1, got {batch}")
        samples = self._samples(inputs)
        size = self.static_batch or batch
        for start in range(0, samples, size):
            feed = {name: np.ascontiguousarray(inputs[name][start : start + size]) for name in self._inputs}
            kept = min(size, samples - start)
            if self.static_batch and kept < size:
                feed = {name: np.concatenate([a, np.repeat(a[-1:], size - kept, axis=0)]) for name, a in feed.items()}
            yield feed, kept

    def _check_sample_axis(self, result: object, fed: int) -> None:
        if not isinstance(result, np.ndarray):
            raise ModelInvalid(f"output {self._output!r} is a {type(result).__name__}; expected a tensor")
        if result.ndim == 0 or len(result) != fed:
            raise ModelInvalid(
                f"output {self._output!r} has the shape {list(result.shape)} for {fed} samples; expected the samples "
                "along its first axis: export the network with the batch axis first in every output"
            )


def timed_session(model: bytes, inputs: Arrays, threads: int) -> Callable[[], None]:
    """A run of the file on these inputs, to be timed: loaded, with the options that a user would take.

    Raises:
        ModelInvalid, ModelTooLarge: ONNX Runtime refuses the file; the returned run raises them too.
    """
    session = _session(model, _options(threads))
    feed = {name: np.ascontiguousarray(array) for name, array in inputs.items()}

    def run() -> None:
        with runtime_errors("run"):
            session.run(None, feed)

    return run


def _options(threads: int) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = FATAL
    return options


def _session(model: bytes, options: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession:
    with runtime_errors("load"):
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

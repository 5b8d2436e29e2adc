"""Sessions of ONNX Runtime for parts of a network, which run many times between other work, and how they use cores."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import onnx
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as native

from network.batching import Arrays, Batching
from network.errors import ModelNotRunnable, ModelTooLarge
from network.weight_folder import WeightFolder, in_folder

Item = TypeVar("Item")
Result = TypeVar("Result")

RUNTIME_FAILURES = (
    native.EPFail,
    native.Fail,
    native.InvalidArgument,
    native.InvalidGraph,
    native.InvalidProtobuf,
    native.NoSuchFile,
    native.NotImplemented,
    native.RuntimeException,
    RuntimeError,
)
"""What ONNX Runtime raises on a file that it does not take, and on inputs that a network fails on."""

WEIGHT_FOLDER = "session.model_external_initializers_file_folder_path"
"""The option of a session that says where a `network.weight_folder.WeightFolder` lies."""

FATAL = 4  # of ONNX Runtime's log severities: what matters is raised, not printed


@dataclass(frozen=True, slots=True)
class SideBySide:
    """How a batch of samples uses the cores: in `runs` parts at once, each on `threads` threads of ONNX Runtime.

    Threads within an operator wait for each other at the end of every operator. Two cores that run samples of their own
    take two thirds of the time of two that share every operator of a ResNet20 (a half where other work disturbs them),
    for the same bits, and no more memory: the parts make up one batch.
    """

    runs: int
    threads: int

    @classmethod
    def of(cls, batch: int, threads: int, fixed: int | None) -> SideBySide:
        """For batches of `batch` samples at most; a graph that takes exactly `fixed` samples runs them as they are."""
        runs = 1 if fixed is not None else max(1, min(batch, threads))
        return cls(runs, max(1, threads // runs))

    def parts(self, start: int, stop: int) -> list[slice]:
        """The samples from `start` to `stop - 1` in at most `runs` parts of about equal length."""
        runs = min(self.runs, stop - start)
        edges = [start + (stop - start) * place // runs for place in range(runs + 1)]
        return [slice(first, last) for first, last in pairwise(edges)]

    def calls(self, batching: Batching, samples: Arrays, batch: int) -> list[list[dict[str, NDArray[Any]]]]:
        """The inputs of calls by graph input name, for at most `batch` samples in turn: those that run at once."""
        turns = []
        for part in batching.batches(samples, batch):
            count = len(next(iter(part.values())))
            slices = self.parts(0, count)
            turns.append([batching.call({name: array[own] for name, array in part.items()}) for own in slices])
        return turns

    def map(self, work: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        """`work` of every item, in order, `runs` of them at once."""
        if self.runs == 1 or len(items) <= 1:
            return [work(item) for item in items]
        with ThreadPoolExecutor(self.runs) as pool:
            return list(pool.map(work, items))


def session_of(
    model: onnx.ModelProto | bytes | Path,
    threads: int,
    *,
    optimised: bool = True,
    shapes_first: bool = False,
    weights: WeightFolder | None = None,
) -> onnxruntime.InferenceSession:
    """A session on the CPU, with so many threads within an operator, and with or without graph optimisation.

    With `shapes_first` the operators Shape and Size run before any other that is ready, so that what only they read
    does not stay in memory.

    Args:
        model: a message, a file, or its bytes, which the session keeps.
        weights: the folder with the initializers that a message lacks; None: it has them all.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = FATAL
    if not optimised:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    if shapes_first:
        options.execution_order = onnxruntime.ExecutionOrder.PRIORITY_BASED
    # spinning threads of many sessions take the cores from each other, and from what is computed between the runs
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if isinstance(model, onnx.ModelProto):
        if weights is None:
            weights = WeightFolder()
            model = in_folder(model, weights)
        options.add_session_config_entry(WEIGHT_FOLDER, str(weights.path))
        model = model.SerializeToString()
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


@contextmanager
def runtime_errors(doing: str) -> Iterator[None]:
    """What ONNX Runtime raises, as our own errors; it wraps a failed allocation into a RuntimeException."""
    try:
        yield
    except (MemoryError, *RUNTIME_FAILURES) as error:
        reason = " ".join(str(error).split())
        if isinstance(error, MemoryError) or "bad_alloc" in reason or "Failed to allocate memory" in reason:
            raise ModelTooLarge(
                f"ONNX Runtime takes more memory to {doing} the network than this process may use: {reason[:200]}"
            ) from error
        raise ModelNotRunnable(f"ONNX Runtime does not {doing} the network: {reason[:400]}; export it again") from error

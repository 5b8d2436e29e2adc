"""GPTQ in units of what it cannot do without: its Cholesky factor and bare column updates, and a float forward pass.

python -m benchmarks.gptq DATA        DATA as benchmarks.real_network takes it
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from scipy.linalg import lapack
from threadpoolctl import threadpool_limits

from benchmarks.real_network import BATCH, FORMATS, THREADS, prepared_images, site_statistics
from evaluation.runner import OnnxRunner
from network.graph import Network
from network.normalise import dump, normalise
from quantization.formats import IntegerFormat
from quantization.rounding.gptq import DAMPING, gptq, prepare
from quantization.rounding.statistics import InputStatistics, input_statistics

ROWS, REDUCED = 1024, 4096
BLOCKS = (128, 256, 512, 1024)  # columns of one bare update
REPEATS = 7
PASSES = 3

Floats = NDArray[np.float32]


def gptq_gemm_time_ratio(threads: int = 1) -> float:
    """Seconds of GPTQ of a Gemm `ROWS x REDUCED` in 4 bits, over those of what it is made of: one Cholesky factor of H
    in float64, and the updates of all columns in float32 products of the best size, without any rounding.

    Both on so many threads. One of BLAS is what a worker gives it; a second one helps the factor more than the rest.
    """
    with _threads(threads):
        return _gemm_time_ratio(threads)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """So many for BLAS, for torch, and for what this package does in threads of its own."""
    told, torch_threads = os.environ.get("OMP_NUM_THREADS"), torch.get_num_threads()
    os.environ["OMP_NUM_THREADS"] = str(count)
    torch.set_num_threads(count)
    try:
        with threadpool_limits(count, user_api="blas"):
            yield
    finally:
        torch.set_num_threads(torch_threads)
        del os.environ["OMP_NUM_THREADS"]
        if told is not None:
            os.environ["OMP_NUM_THREADS"] = told


def _gemm_time_ratio(threads: int) -> float:
    weight, statistics, axis = _gemm()
    hessian = statistics.hessian[0] + DAMPING * statistics.hessian[0].diagonal().mean() * np.eye(REDUCED)
    upper = np.triu(np.random.default_rng(2).standard_normal((REDUCED, REDUCED), dtype=np.float32))
    deltas = np.random.default_rng(3).standard_normal((REDUCED, ROWS), dtype=np.float32)
    parts: list[Callable[[], Any]] = [
        lambda: gptq(prepare(weight, statistics), [IntegerFormat(4)], axis),
        lambda: lapack.dpotrf(hessian.T, lower=1, clean=0, overwrite_a=1),
        *(lambda block=block: _updates(upper, deltas, block) for block in BLOCKS),
    ]
    original = hessian.copy()
    best = _best_seconds(parts, REPEATS, lambda: np.copyto(hessian, original))
    ratio = best[0] / (best[1] + min(best[2:]))
    print(
        f"gptq of {ROWS} x {REDUCED} in 4 bits, threads: {threads}: {best[0]:.2f} s; float64 Cholesky {best[1]:.2f} s, "
        f"bare updates {min(best[2:]):.2f} s; ratio {ratio:.2f}"
    )
    return ratio


def gptq_float_passes(data: Path) -> float:
    """Seconds of GPTQ of all weights of a network in 2 to 8 bits, in forward passes of its float form over all
    calibration images; collecting the inputs is not in it."""
    images = prepared_images(data, "calibration")[0]
    network = normalise(onnx.load(str(data / "resnet20.onnx")), {"input": images.shape[1:]})
    statistics = site_statistics(network, images)
    runner = OnnxRunner(dump(network), THREADS)
    rounding, passing = _best_seconds(
        [lambda: _round_all(network, statistics), lambda: runner.first_output({"input": images}, BATCH)], PASSES
    )
    print(
        f"gptq of {len(network.sites)} weights in {len(FORMATS)} formats: {rounding:.2f} s, {rounding / passing:.2f} "
        f"float passes over {len(images)} images"
    )
    return rounding / passing


def _round_all(network: Network, statistics: dict[str, InputStatistics]) -> None:
    for site in network.sites:
        gptq(prepare(network.weight(site.weight), statistics[site.name]), FORMATS, site.channel_axis)


def _gemm() -> tuple[Floats, InputStatistics, int]:
    """A weight, the second moments of inputs that are correlated and not below 0, and the channel axis."""
    rng = np.random.default_rng(0)
    weight = 0.02 * rng.standard_normal((ROWS, REDUCED), dtype=np.float32)
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", "w"], ["y"], transB=1)],
        "gemm",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", REDUCED])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", ROWS])],
        [numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    network = normalise(model, {"x": (REDUCED,)})
    (site,) = network.sites
    statistics = input_statistics(network, site)
    if not isinstance(statistics, InputStatistics):
        raise TypeError(f"a Gemm has second moments, got {statistics.reason}")
    inputs = rng.standard_normal((2 * REDUCED, REDUCED), dtype=np.float32)
    statistics.add(site.layers[0], np.maximum(inputs + 0.7 * np.roll(inputs, 1, axis=1), 0))
    return weight, statistics, site.channel_axis


def _updates(upper: Floats, deltas: Floats, block: int) -> Floats:
    """What all columns lose to the errors of those after them, `block` columns at once."""
    found = np.zeros_like(deltas)
    for stop in range(REDUCED, block, -block):
        start = stop - block
        found[:start] -= upper[:start, start:stop] @ deltas[start:stop]
    return found


def _best_seconds(
    parts: Sequence[Callable[[], Any]], repeats: int, before: Callable[[], Any] = lambda: None
) -> list[float]:
    """The least time of each part, all taking turns."""
    seconds = [float("inf")] * len(parts)
    for _ in range(repeats):
        before()
        for place, part in enumerate(parts):
            started = time.perf_counter()
            part()
            seconds[place] = min(seconds[place], time.perf_counter() - started)
    return seconds


def main() -> None:
    for threads in (1, 2):
        gptq_gemm_time_ratio(threads)
    gptq_float_passes(Path(sys.argv[1]))


if __name__ == "__main__":
    main()

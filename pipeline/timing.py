"""Times of files on this machine that can be compared whenever they were taken.

A machine that others use too is fast and slow by turns, for seconds or minutes: the same network took 0.95 and 1.26 ms
within one minute, each time with a spread of 1 %. So every file takes turns with a yardstick, one convolution that
is always the same, and with a file that computes nothing, and its time is

    (time - nothing) * (the yardstick's own time, taken once) / (yardstick - nothing)

with what was measured in the same seconds on the right. Where other bytes are read between the runs of a file
(`Timed.bytes_between`), so they are between those of the nothing that is taken off its time.

Times are kept for all jobs, under the digest of the file, with threads, ONNX Runtime's version and the processor's
name.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from evaluation.latency import Latency, Timed, measure_alternatives
from evaluation.layer_model import digest
from pipeline.config import TimingConfig
from pipeline.context import Context

# raised when times are taken in another way, so that old ones are not taken for new ones
METHOD = 3
# of the yardstick's own time, on which the scale of all others rests
YARDSTICK_SECONDS = 2.0


class Timing:
    """Times files in one job's process. What interrupts the job ends a measurement."""

    def __init__(self, context: Context, config: TimingConfig) -> None:
        self._context = context
        self._threads = config.threads
        self._key = json.dumps(["latency", METHOD, config.processor, config.threads])
        self._nothing, self._yardstick = _nothing(), _yardstick()

    def known(self, timed: Sequence[Timed], most_seconds: float = 0.5) -> list[Latency]:
        """The files in turns, for so long each, unless all of them are known; each has one latency for all jobs."""
        measured: list[Latency] = []

        def compute(index: int) -> bytes:
            if not measured:
                measured.extend(self.measured(timed, most_seconds))
            return _packed(measured[index])

        keys = [f"{self._key}/{digest(file)}/{file.bytes_between}" for file in timed]
        return [_unpacked(self._context.cached(key, partial(compute, index))) for index, key in enumerate(keys)]

    def measured(self, timed: Sequence[Timed], most_seconds: float = 0.5) -> list[Latency]:
        """The files in turns, now.

        Args:
            timed: files that can be loaded together.
            most_seconds: for each file.
        """
        unit_ms = self._unit_ms()
        between = sorted({0, *(file.bytes_between for file in timed)})
        first, *others = (replace(self._nothing, bytes_between=count) for count in between)
        turns = [first, self._yardstick, *others, *timed]
        called, yardstick, *latencies = self._measure(turns, 0.01, most_seconds)
        nothing = dict(zip(between, [called, *latencies[: len(others)]], strict=True))
        scale = unit_ms / (yardstick.median_ms - nothing[0].median_ms)
        return [
            replace(
                latency,
                median_ms=scale * max(latency.median_ms - nothing[file.bytes_between].median_ms, 0.0),
                spread_ms=scale * math.hypot(latency.spread_ms, nothing[file.bytes_between].spread_ms),
            )
            for file, latency in zip(timed, latencies[len(others) :], strict=True)
        ]

    def _unit_ms(self) -> float:
        """The yardstick's own time, less that of nothing."""

        def compute() -> bytes:
            nothing, yardstick = self._measure([self._nothing, self._yardstick], 0.0, YARDSTICK_SECONDS)
            return _packed(replace(yardstick, median_ms=yardstick.median_ms - nothing.median_ms))

        return _unpacked(self._context.cached(f"{self._key}/yardstick", compute)).median_ms

    def _measure(self, timed: Sequence[Timed], relative_spread: float, most_seconds: float) -> list[Latency]:
        return measure_alternatives(
            timed,
            self._threads,
            relative_spread=relative_spread,
            most_seconds=most_seconds,
            check=self._context.check,
        )


def _packed(latency: Latency) -> bytes:
    return json.dumps(asdict(latency)).encode()


def _unpacked(blob: bytes) -> Latency:
    return Latency(**json.loads(blob))


def _nothing() -> Timed:
    """A call, and no more."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "nothing", [x], [y])
    return Timed(_file(graph), {"x": np.zeros(1, dtype=np.float32)})


def _yardstick() -> Timed:
    """A convolution of 9 million multiply-accumulates."""
    generator = np.random.default_rng(0)
    weight = generator.standard_normal((32, 32, 3, 3)).astype(np.float32)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 32, 32, 32])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 32, 32, 32])
    node = helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1])
    graph = helper.make_graph([node], "yardstick", [x], [y], [numpy_helper.from_array(weight, "w")])
    return Timed(_file(graph), {"x": generator.standard_normal((1, 32, 32, 32)).astype(np.float32)})


def _file(graph: onnx.GraphProto) -> bytes:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return bytes(model.SerializeToString(deterministic=True))

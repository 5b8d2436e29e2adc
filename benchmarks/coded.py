"""Coded weights: what they take over the entropy of their codes, and how long they load beside packed integers.

    python -m benchmarks.coded

Gaussian and Laplace weights, a million each, at several rates; loading is ONNX Runtime's, on one core, the first of a
process that has opened a session before, the median of several processes. `coded_load_time_vs_packed` is the largest
ratio to 3-bit integers as an opset of bytes holds them. (Of a file loaded again and again in one process it depends on
which pages the allocator has kept: 1.6 to 3.5 were seen.)
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console
from rich.table import Table

from network.graph import Network
from network.normalise import from_proto, normalise
from quantization.export.export import export
from quantization.formats import CodedFormat, IntegerFormat
from quantization.rounding.nearest import round_nearest
from quantization.storage.coded import CodedWeight, coded_bits
from quantization.storage.weights import QuantizedWeight

SIDE = 1000
OPSET = 18
RUNS = 5
TENTHS = (12, 15, 20, 25, 30, 40)


def main() -> None:
    print(json.dumps(figures()))


def figures() -> dict[str, float]:
    """The largest overhead and the largest ratio of times, with a table on the way."""
    generator = np.random.default_rng(0)
    table = Table("weights", "format", "bits over entropy", "loads in, ms", "packed integers, ms")
    overheads, ratios = [], []
    for kind in ("normal", "laplace"):
        weight = getattr(generator, kind)(size=(SIDE, SIDE)).astype(np.float32)
        network = _network(weight)
        packed = _load_seconds(network, round_nearest(weight, IntegerFormat(3), 1))
        for tenths in TENTHS:
            coded = round_nearest(weight, CodedFormat(tenths), 1)
            if not isinstance(coded, CodedWeight):
                raise TypeError(f"rounded to {coded.format.name}")
            overheads.append(coded_bits(coded.codes, coded.format) / _entropy(coded.codes))
            seconds = _load_seconds(network, coded)
            ratios.append(seconds / packed)
            row = (f"{overheads[-1]:.3f}", f"{1e3 * seconds:.0f}", f"{1e3 * packed:.0f}")
            table.add_row(kind, coded.format.name, *row)
    Console(file=sys.stderr).print(table)
    return {
        "coded_overhead_over_entropy": round(max(overheads), 3),
        "coded_load_time_vs_packed": round(max(ratios), 2),
    }


def _network(weight: np.ndarray) -> Network:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", SIDE]) for name in ("x", "y")]
    node = helper.make_node("MatMul", ["x", "w"], ["y"], "layer")
    graph = helper.make_graph([node], "one", values[:1], values[1:], [numpy_helper.from_array(weight, "w")])
    proto = normalise(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)]), {"x": (SIDE,)}).proto
    proto.opset_import[0].version = OPSET
    proto.ir_version = 8
    return from_proto(proto)


def _load_seconds(network: Network, weight: QuantizedWeight) -> float:
    return load_seconds(export(network, {"w": weight}, {}), export(network, {}, {}), RUNS)


def load_seconds(file: bytes, before: bytes, runs: int) -> float:
    """The median over processes of what `file` takes to load behind `before`: seconds of the processor, one thread."""
    with tempfile.TemporaryDirectory(prefix="bench-coded-") as folder:
        second, first = Path(folder) / "second.onnx", Path(folder) / "first.onnx"
        second.write_bytes(file)
        first.write_bytes(before)
        command = [sys.executable, "-c", f"from benchmarks.coded import load; load({str(first)!r}, {str(second)!r})"]
        done = [subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True) for _ in range(runs)]
    return statistics.median(float(run.stdout) for run in done)


def load(first: str, file: str) -> None:
    """Print the seconds that `file` takes to load behind `first`."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(first, options, providers=["CPUExecutionProvider"])
    began = time.process_time()
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    print(time.process_time() - began)
    del session


def _entropy(codes: np.ndarray) -> float:
    _, counts = np.unique(codes, return_counts=True)
    return float(-(counts * np.log2(counts / counts.sum())).sum())


if __name__ == "__main__":
    main()

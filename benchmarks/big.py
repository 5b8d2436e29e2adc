"""A network of 100 million weights: what quantizing, writing and loading it takes, beside ONNX Runtime's own tools.

Every figure is measured in processes of their own; times of alternatives take turns, and the best counts.
`python -m benchmarks.big` prints the table.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import helper
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

from benchmarks.largest_magnitude import round_by_largest
from network.graph import Network
from network.normalise import from_proto
from quantization.export.export import export
from quantization.formats import Granularity, IntegerFormat
from quantization.rounding.nearest import round_nearest
from quantization.storage.weights import IntegerWeight

LAYERS, NARROW, WIDE = 24, 1024, 4096
BLOCK = IntegerFormat(4, Granularity.BLOCK, True, 32)
ROUNDS = 4

Round = Callable[[NDArray[np.float32], IntegerFormat, int], IntegerWeight]


def float_model() -> onnx.ModelProto:
    """24 MatMul, 1024 to 4096 and back, with Gaussian weights that keep the values' size. Never held twice."""
    rng = np.random.default_rng(0)
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", [f"h{layer}", f"w{layer}"], [f"h{layer + 1}"], name=f"layer{layer}")
            for layer in range(LAYERS)
        ],
        "big",
        [helper.make_tensor_value_info("h0", onnx.TensorProto.FLOAT, ["N", NARROW])],
        [helper.make_tensor_value_info(f"h{LAYERS}", onnx.TensorProto.FLOAT, ["N", NARROW])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 25)], ir_version=13)
    for layer in range(LAYERS):
        shape = (NARROW, WIDE) if layer % 2 == 0 else (WIDE, NARROW)
        values = rng.standard_normal(shape, dtype=np.float32)
        values /= np.float32(shape[0] ** 0.5)
        tensor = model.graph.initializer.add(name=f"w{layer}", data_type=onnx.TensorProto.FLOAT, dims=shape)
        tensor.raw_data = values.tobytes()
    return model


def big_time_vs_onnxruntime() -> float:
    """Seconds to quantize at 4 bits in blocks of 32 and to write the file, over those of `MatMulNBitsQuantizer`.

    With scales from the largest magnitude, as the other has them; the ratio with scales of least squared error, which
    jobs use, is printed beside it.
    """
    seconds: dict[str, list[float]] = {name: [] for name in ("largest", "searched", "onnxruntime")}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(ROUNDS):
            for name, found in seconds.items():
                found.append(_measured("time", name, Path(folder) / f"{name}.onnx"))
    best = {name: min(found) for name, found in seconds.items()}
    ratio = best["largest"] / best["onnxruntime"]
    print(
        f"{BLOCK.name}: {best['largest']:.2f} s, with searched scales {best['searched']:.2f} s, onnxruntime "
        f"{best['onnxruntime']:.2f} s: ratios {ratio:.2f} and {best['searched'] / best['onnxruntime']:.2f}"
    )
    return ratio


def big_load_time_vs_float() -> float:
    """Seconds to load a file of 2 to 8 bits, the widths taking turns, over those of the float file; at most 4 is
    wanted."""
    quantized, floats = [], []
    with tempfile.TemporaryDirectory() as folder:
        files = {name: Path(folder) / f"{name}.onnx" for name in ("mixed", "float")}
        for name, path in files.items():
            _measured("write", name, path)
        for _ in range(ROUNDS):
            quantized.append(_measured("load", "mixed", files["mixed"]))
            floats.append(_measured("load", "float", files["float"]))
    ratio = min(quantized) / min(floats)
    print(f"2 to 8 bits: loaded in {min(quantized):.2f} s, float in {min(floats):.2f} s: ratio {ratio:.2f}")
    return ratio


def _measured(what: str, which: str, path: Path) -> float:
    """Seconds that a process of its own prints."""
    command = [sys.executable, "-m", "benchmarks.big", what, which, str(path)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def _write(network: Network, formats: Mapping[str, IntegerFormat], path: Path, round_: Round = round_nearest) -> None:
    """As a job does: all weights are rounded, and then the file is made of them."""
    weights = {
        site.weight: round_(network.weight(site.weight), formats[site.weight], site.channel_axis)
        for site in network.sites
    }
    path.write_bytes(export(network, weights, {}))


def _time(which: str, path: Path) -> None:
    model = float_model()
    if which == "onnxruntime":
        started = time.perf_counter()
        quantizer = MatMulNBitsQuantizer(model, bits=BLOCK.bits, block_size=BLOCK.block, is_symmetric=True)
        quantizer.process()
        quantizer.model.save_model_to_file(str(path))
    else:
        network = from_proto(model)
        round_ = round_by_largest if which == "largest" else round_nearest
        formats = {site.weight: BLOCK for site in network.sites}
        started = time.perf_counter()
        _write(network, formats, path, round_)
    print(time.perf_counter() - started)


def _file(which: str, path: Path) -> None:
    started = time.perf_counter()
    model = float_model()
    if which == "float":
        onnx.save(model, path)
    else:
        network = from_proto(model)
        _write(network, {s.weight: IntegerFormat(2 + number % 7) for number, s in enumerate(network.sites)}, path)
    print(time.perf_counter() - started)


def _load(_which: str, path: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    started = time.perf_counter()
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    print(time.perf_counter() - started)


_PARTS = {"time": _time, "write": _file, "load": _load}

if __name__ == "__main__":
    if len(sys.argv) > 1:
        _PARTS[sys.argv[1]](sys.argv[2], Path(sys.argv[3]))
    else:
        big_time_vs_onnxruntime()
        big_load_time_vs_float()

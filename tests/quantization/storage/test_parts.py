"""Every format, written, counted and read back: the file computes what numpy dequantizes, and holds what is planned."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from network.graph import Network
from network.normalise import from_proto, normalise
from quantization.export.audit import audit
from quantization.export.cost import file_bytes, weight_bytes
from quantization.export.export import export, simulate
from quantization.formats import (
    CodebookFormat,
    CodedFormat,
    Granularity,
    HadamardFormat,
    HalfFormat,
    IntegerFormat,
    PowerFormat,
    WeightFormat,
)
from quantization.rounding.nearest import round_nearest
from quantization.storage.families import quantized_weight
from quantization.storage.parts import NotStorable, storage

RunOnnx = Callable[..., list[NDArray[Any]]]

SHARED = (Granularity.TENSOR, Granularity.CHANNEL)
FORMATS: list[WeightFormat] = [
    HalfFormat(),
    *(IntegerFormat(bits, granularity) for bits in (2, 3, 8) for granularity in SHARED),
    *(IntegerFormat(bits, granularity, False) for bits in (2, 3, 5, 8) for granularity in SHARED),
    *(IntegerFormat(bits, Granularity.BLOCK, symmetric, 16) for bits in (2, 3, 4, 7, 8) for symmetric in (True, False)),
    *(CodebookFormat(bits, outliers) for bits in (2, 3, 4) for outliers in (0, 45, 200)),
    *(PowerFormat(bits) for bits in (2, 3, 7, 8)),
    *(HadamardFormat(bits) for bits in (2, 3, 7, 8)),
    *(CodedFormat(tenths) for tenths in (12, 15, 17, 20, 25, 30, 40)),
]


def _network(layer: str, opset: int = 25) -> Network:
    """One layer whose weight sums over 48 numbers."""
    generator = np.random.default_rng(0)
    weight, attributes, shape = {
        "Conv": ((5, 3, 4, 4), {}, [3, 4, 4]),
        "MatMul": ((48, 7), {}, [48]),
        "stack": ((2, 48, 7), {}, [2, 3, 48]),
        "Gemm": ((7, 48), {"transB": 1}, [48]),
    }[layer]
    values = generator.standard_normal(weight).astype(np.float32)
    node = helper.make_node("MatMul" if layer == "stack" else layer, ["x", "w"], ["y"], "layer", **attributes)
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", *shape])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(values, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])
    proto = normalise(model, {"x": tuple(shape)}).proto
    proto.opset_import[0].version = opset  # these operators are the same in all of them
    proto.ir_version = 13 if opset == 25 else 8
    return from_proto(proto)


@pytest.mark.parametrize("layer", ["Conv", "MatMul", "stack", "Gemm"])
@pytest.mark.parametrize("opset", [18, 24, 25])
@pytest.mark.parametrize("format_", FORMATS, ids=lambda format_: format_.name)
def test_what_is_written_is_what_is_planned(run_onnx: RunOnnx, format_: WeightFormat, opset: int, layer: str) -> None:
    network = _network(layer, opset)
    (site,) = network.sites
    weight = round_nearest(network.weight(site.weight), format_, site.channel_axis)
    assert (weight.format, weight.shape) == (format_, site.shape)
    file = export(network, {site.weight: weight}, {})
    inputs = {"x": np.random.default_rng(1).standard_normal((2, *network.inputs[0].shape[1:])).astype(np.float32)}
    np.testing.assert_array_equal(
        run_onnx(file, inputs)[0], run_onnx(simulate(network, {site.weight: weight}), inputs)[0]
    )
    assert len(file) == file_bytes(network, {site.weight: format_})
    (stored,) = audit(file).weights
    assert (stored.name, stored.shape, stored.format) == (site.weight, site.shape, format_)
    stored_in = onnx.ModelProto.FromString(file)
    assert stored_in.opset_import[0].version == opset
    assert stored_in.ir_version == (13 if opset == 25 else 8)
    parts = storage(format_, site.shape, site.channel_axis, opset=opset).parts
    tensors = weight.tensors(opset)
    assert [(t.data_type, tuple(t.dims), len(t.raw_data)) for t in tensors] == [
        (part.data_type, part.dims, part.size_bytes) for part in parts
    ]
    onnx.checker.check_model(stored_in, full_check=True)
    assert stored.size_bytes + stored.scale_bytes == sum(part.size_bytes for part in parts)
    assert (
        weight_bytes(format_, site.shape, site.channel_axis, site.weight, opset=opset)
        > stored.size_bytes + stored.scale_bytes
    )
    again = quantized_weight(format_, weight.arrays())
    np.testing.assert_array_equal(again.dequantize(), weight.dequantize())


@pytest.mark.parametrize("opset", [18, 25])
@pytest.mark.parametrize("format_", FORMATS, ids=lambda format_: format_.name)
def test_the_runtime_folds_the_unpacking(format_: WeightFormat, opset: int, tmp_path: Path) -> None:
    network = _network("Conv", opset)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    weight = round_nearest(network.weight("w"), format_, 0)
    onnxruntime.InferenceSession(export(network, {"w": weight}, {}), options, providers=["CPUExecutionProvider"])
    optimised = onnx.load(tmp_path / "optimised.onnx")
    assert [node.op_type for node in optimised.graph.node] == ["Conv"]
    assert not optimised.functions


def test_a_block_that_does_not_divide_the_sum_is_refused() -> None:
    with pytest.raises(NotStorable, match=r"shape \(7, 50\) does not divide into blocks of 16"):
        storage(IntegerFormat(4, Granularity.BLOCK, block=16), (7, 50), 0)
    with pytest.raises(NotStorable, match="does not divide"):
        storage(IntegerFormat(4, Granularity.BLOCK, block=16), (16, 8, 3, 3), 1)  # of a ConvTranspose


def test_blocks_cost_half_a_bit_for_32_weights() -> None:
    plain = storage(IntegerFormat(4), (64, 1024), 0).parts
    blocks = storage(IntegerFormat(4, Granularity.BLOCK, block=32), (64, 1024), 0).parts
    codes = 64 * 1024 // 2
    assert sum(part.size_bytes for part in plain) == codes + 4 * 64
    assert sum(part.size_bytes for part in blocks) == codes + math.ceil(64 * 1024 / 32) * 2 + 4


@pytest.mark.parametrize("shape", [(0, 48), (48, 0), (0, 0)])
@pytest.mark.parametrize("format_", FORMATS, ids=lambda format_: format_.name)
def test_a_weight_without_numbers_is_refused(format_: WeightFormat, shape: tuple[int, int]) -> None:
    """Before anything is divided by their number: warnings are errors here."""
    for axis in (0, 1):
        with pytest.raises(NotStorable, match="is empty; it stays as it is"):
            storage(format_, shape, axis)
        with pytest.raises(NotStorable, match="is empty"):
            round_nearest(np.zeros(shape, np.float32), format_, axis)

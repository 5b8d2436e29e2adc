"""Biases and parameters of normalisations as float16: in the file, in its size, and in what it computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from network.graph import Network
from quantization.errors import QuantizationError
from quantization.export.audit import audit
from quantization.export.cost import activation_bytes, file_bytes, skeleton_bytes, weight_bytes
from quantization.export.export import export, simulate
from quantization.export.leftovers import leftovers
from quantization.formats import IntegerFormat, UnsignedFormat
from tests.quantization.kernels import RunOnnx, build, draw, functions_bytes, ranged, rounded

POSITIONS, WIDTH = 300, 128  # more than 64 KiB of float32
HALVES = {"b_conv", "scale", "shift", "b_add", "slope"}


def network() -> tuple[Network, dict[str, NDArray[Any]]]:
    """Parameters of every kind, and constants that are none."""
    nodes = [
        helper.make_node("Conv", ["x", "w_conv", "b_conv"], ["c"]),
        helper.make_node("Reshape", ["c", "rows"], ["r"]),
        helper.make_node("MatMul", ["r", "w_in"], ["m"]),
        helper.make_node("Add", ["m", "positions"], ["p"]),
        helper.make_node("LayerNormalization", ["p", "scale", "shift"], ["n"]),
        helper.make_node("MatMul", ["n", "w_mid"], ["h"]),
        helper.make_node("Add", ["b_add", "h"], ["a"]),
        helper.make_node("PRelu", ["a", "slope"], ["q"]),
        helper.make_node("Add", ["q", "grid"], ["g"]),
        helper.make_node("Mul", ["g", "large"], ["l"]),
        helper.make_node("Mul", ["l", "tiny"], ["t"]),
        helper.make_node("Add", ["t", "shared"], ["s"]),
        helper.make_node("Div", ["s", "few"], ["d"]),
        helper.make_node("Where", ["mask", "d", "shared"], ["y"]),
    ]
    tensors = {
        "w_conv": draw(40, 3, 3, 3) / 5,
        "b_conv": draw(40),
        "rows": np.array([0, POSITIONS, -1], dtype=np.int64),
        "w_in": draw(40, WIDTH) / 6,
        "positions": draw(1, POSITIONS, WIDTH),
        "scale": 1 + draw(WIDTH) / 10,
        "shift": draw(WIDTH, seed=1) / 10,
        "w_mid": draw(WIDTH, WIDTH) / 11,
        "b_add": draw(WIDTH, seed=2),
        "slope": draw(WIDTH, seed=3) / 9,
        "grid": draw(POSITIONS, WIDTH, seed=4),  # like the positions a table, which has formats of its own
        "large": np.full(WIDTH, 7e4, dtype=np.float32),
        "tiny": np.full(WIDTH, 1e-5, dtype=np.float32),
        "shared": draw(WIDTH, seed=5),  # which something else reads, too
        "few": 1 + np.abs(draw(4, seed=6)).repeat(1)[:1],
        "mask": draw(WIDTH) > 0,
    }
    inputs = {"x": draw(2, 3, 22, 17)}
    return build(nodes, inputs, tensors), inputs


def test_what_is_left_over() -> None:
    assert leftovers(network()[0]) == HALVES


def test_the_file_has_them_as_float16_and_computes_with_them(run_onnx: RunOnnx) -> None:
    net, inputs = network()
    weights = rounded(net, 4)
    file = export(net, weights, {"k": "v"}, halves=HALVES)
    model = onnx.ModelProto.FromString(file)
    onnx.checker.check_model(model, full_check=True)
    types = {tuple(t.dims): t.data_type for t in model.graph.initializer}
    assert types[40,] == TensorProto.FLOAT16
    assert sum(t.data_type == TensorProto.FLOAT16 for t in model.graph.initializer) == len(HALVES)
    expected = run_onnx(simulate(net, weights, halves=HALVES), inputs)[0]
    assert run_onnx(file, inputs)[0].tobytes() == expected.tobytes()
    assert np.abs(run_onnx(simulate(net, weights), inputs)[0] - expected).max() > 0
    formats = {name: weight.format for name, weight in weights.items()}
    assert file_bytes(net, formats, {"k": "v"}, halves=HALVES) == len(file)
    assert file_bytes(net, formats, {"k": "v"}) - len(file) > 2 * 3 * WIDTH
    assert audit(file).weights == audit(export(net, weights, {"k": "v"})).weights


def test_the_runtime_folds_them(tmp_path: Path) -> None:
    net, _ = network()
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    file = export(net, rounded(net, 4), {}, halves=HALVES)
    onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    assert "Cast" not in [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]


def test_biases_of_integer_kernels_are_codes(run_onnx: RunOnnx) -> None:
    nodes = [helper.make_node("Gemm", ["x", "w", "b"], ["h"]), helper.make_node("Gemm", ["h", "v", "c"], ["y"])]
    tensors = {"w": draw(16, 200), "b": draw(200), "v": draw(200, 100) / 14, "c": draw(100)}
    net = build(nodes, {"x": draw(3, 16)}, tensors)
    weights, activations = rounded(net, 4), ranged(net, 8, "x")
    found = leftovers(net)
    assert found == {"b", "c"}
    file = export(net, weights, {}, activations, halves=found)
    types = {tuple(t.dims): t.data_type for t in onnx.ModelProto.FromString(file).graph.initializer}
    assert (types[200,], types[100,]) == (TensorProto.INT32, TensorProto.FLOAT16)
    formats = {name: weight.format for name, weight in weights.items()}
    widths = {name: activation.format for name, activation in activations.items()}
    assert file_bytes(net, formats, {}, widths, halves=found) == len(file)
    inputs = {"x": draw(3, 16)}
    expected = run_onnx(simulate(net, weights, activations, halves=found), inputs)[0]
    np.testing.assert_allclose(run_onnx(file, inputs)[0], expected, rtol=1e-4, atol=1e-4)
    sums = skeleton_bytes(net, activations=True, halves=found)
    sums += sum(weight_bytes(IntegerFormat(4), s.shape, s.channel_axis, s.weight) for s in net.sites)
    assert sums + activation_bytes(net, ["x"], UnsignedFormat(8), found) >= len(file) - functions_bytes(file) - 4


def test_refuses_values_that_float16_does_not_hold() -> None:
    net, _ = network()
    for make in (export, lambda *parts, halves: simulate(*parts[:2], halves=halves)):
        with pytest.raises(QuantizationError, match="large has values that float16 does not hold; store it as float32"):
            make(net, {}, {}, halves={"large"})


def test_only_what_gets_smaller() -> None:
    """A Cast costs about 30 bytes."""
    for channels, expected in ((8, set()), (64, {"b"})):
        nodes = [helper.make_node("Gemm", ["x", "w", "b"], ["y"])]
        net = build(nodes, {"x": draw(3, 16)}, {"w": draw(16, channels), "b": draw(channels)})
        assert leftovers(net) == expected
        sizes = [len(export(net, {}, {}, halves=halves)) for halves in ((), {"b"})]
        assert (sizes[1] < sizes[0]) == bool(expected)


def test_values_that_are_not_finite_stay() -> None:
    nodes = [helper.make_node("Gemm", ["x", "w", "b"], ["y"])]
    bias = draw(64)
    bias[3] = np.inf
    net = build(nodes, {"x": draw(3, 16)}, {"w": draw(16, 64), "b": bias})
    assert not leftovers(net)
    zeros = build(nodes, {"x": draw(3, 16)}, {"w": draw(16, 64), "b": np.zeros(64, np.float32)})
    assert leftovers(zeros) == {"b"}
    assert not numpy_helper.to_array(zeros.initializers["b"]).any()


def test_a_factor_keeps_every_digit_and_a_summand_those_of_the_largest() -> None:
    """A divisor of 1e-9 would become 0."""
    values = 1 + np.abs(draw(64))
    values[7] = 1e-9
    for operator, expected in (("Div", set()), ("Mul", set()), ("Add", {"v"}), ("Sub", {"v"})):
        nodes = [helper.make_node("Gemm", ["x", "w"], ["h"]), helper.make_node(operator, ["h", "v"], ["y"])]
        assert leftovers(build(nodes, {"x": draw(3, 16)}, {"w": draw(16, 64), "v": values})) == expected
    values[7] = 0
    assert leftovers(build(nodes, {"x": draw(3, 16)}, {"w": draw(16, 64), "v": values})) == {"v"}

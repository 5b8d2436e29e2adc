"""Networks of several layers in ONNX Runtime's kernels: any part of them may be quantized, and weights be shared."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper

from network.activations import find_activations
from network.graph import Network
from quantization.activations.quantized import QuantizedActivation
from quantization.export.audit import audit
from quantization.export.cost import file_bytes
from quantization.export.export import export, simulate
from quantization.formats import UnsignedFormat
from tests.quantization.kernels import BEFORE, Optimised, RunOnnx, build, draw, ranged, rounded


def block(seed: int = 0) -> tuple[Network, dict[str, NDArray[np.float32]]]:
    """A residual block with a tied weight, a pool, moved values and a head."""
    nodes = [
        helper.make_node("Conv", ["x", "w_in", "b_in"], ["c0"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c0"], ["r0"]),
        helper.make_node("Conv", ["r0", "w_tied", "b_tied"], ["c1"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("Conv", ["r1", "w_tied", "b_tied"], ["c2"], pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["c2", "r0"], ["s"]),
        helper.make_node("Clip", ["s", "zero", "six"], ["r2"]),
        helper.make_node("MaxPool", ["r2"], ["m"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Flatten", ["m"], ["f"]),
        helper.make_node("Gemm", ["f", "w_head", "b_head"], ["y"], transB=1),
    ]
    tensors = {
        "w_in": draw(6, 3, 3, 3, seed=seed) / 4,
        "b_in": draw(6),
        "w_tied": draw(6, 6, 3, 3, seed=seed) / 6,
        "b_tied": draw(6),
        "w_head": draw(4, 54),
        "b_head": draw(4),
        "zero": np.float32(0),
        "six": np.float32(6),
    }
    inputs = {"x": draw(16, 3, 6, 6, seed=seed)}
    return build(nodes, inputs, tensors), inputs


def test_a_whole_block_runs_on_integers(optimised: Optimised, run_onnx: RunOnnx) -> None:
    network, inputs = block()
    weights, activations = rounded(network, 6), ranged(network, 8)
    file = export(network, weights, {"k": "v"}, activations)
    kernels = ["QLinearConv"] * 3 + ["QLinearAdd", "NhwcMaxPool", "Flatten", "QGemm"]
    assert sorted(name for name in optimised(file) if name not in ("Clip", "Relu")) == sorted(kernels)
    found, expected = (run_onnx(f, inputs)[0] for f in (file, simulate(network, weights, activations)))
    float_error = np.abs(run_onnx(network.proto, inputs)[0] - expected).mean()
    assert np.abs(found - expected).mean() < 0.2 * float_error
    report = audit(file)
    assert [(w.name, w.bits) for w in report.weights] == [("w_in", 6), ("w_tied", 6), ("w_head", 6)]
    assert [a.name for a in report.activations] == ["x", "r0", "r1", "c2", "r2", "m", "f"]
    assert {a.name: (a.bits, a.scale, a.zero_point) for a in report.activations} == {
        name: (8, activation.scale, activation.zero_point) for name, activation in activations.items()
    }


@pytest.mark.parametrize("bits", [4, 16])
def test_four_bits_run_in_the_kernels_for_eight_and_sixteen_in_floats(
    optimised: Optimised, run_onnx: RunOnnx, bits: int
) -> None:
    """With uint4 itself ONNX Runtime 1.31 refuses this file (QLinearConv, MaxPool) or stops while loading (Clip)."""
    network, inputs = block()
    weights, activations = rounded(network, 3), ranged(network, bits)
    file = export(network, weights, {}, activations)
    # the Add stays float: what caps its 4 bits comes behind the Clip, which therefore has something left to do
    kernels = set(optimised(file))
    assert kernels >= ({"QLinearConv", "QGemm", "MaxPool"} if bits == 4 else {"Conv", "Gemm", "MaxPool"})
    found, expected = (run_onnx(f, inputs)[0] for f in (file, simulate(network, weights, activations)))
    float_error = np.abs(run_onnx(network.proto, inputs)[0] - expected).mean()
    assert np.abs(found - expected).mean() < max(0.2 * float_error, 1e-5)
    stored = {a.name: a.bits for a in audit(file).activations}
    assert stored["r1"] == stored["x"] == bits
    moved = {"m", "f"} & stored.keys()
    assert moved == ({"m", "f"} if bits == 4 else set())


@pytest.mark.parametrize("seed", range(6))
def test_any_part_of_a_network_may_be_quantized(run_onnx: RunOnnx, seed: int) -> None:
    """Mixed widths, sites left out, weights left float, a weight needed on integers and in floats at once."""
    network, inputs = block(seed)
    rng = np.random.default_rng(seed)
    weights = {k: w for k, w in rounded(network, int(rng.integers(2, 9))).items() if rng.random() < 0.8}
    activations: dict[str, QuantizedActivation] = {}
    for site in find_activations(network):
        bits = int(rng.choice([0, 4, 8, 8, 16]))
        if bits:
            activations |= ranged(network, bits, site.name)
    file = export(network, weights, {}, activations)
    onnx.checker.check_model(onnx.load_from_string(file), full_check=True)
    found = run_onnx(file, inputs)[0]
    np.testing.assert_allclose(found, run_onnx(file, inputs, optimise=False)[0], atol=1.5)
    expected = run_onnx(simulate(network, weights, activations), inputs)[0]
    assert np.abs(found - expected).mean() < 0.12
    formats = {name: weight.format for name, weight in weights.items()}
    assert file_bytes(network, formats, {}, {n: a.format for n, a in activations.items()}) == len(file)
    other_order = dict(reversed(activations.items()))
    assert export(network, weights, {}, other_order) == file


def test_a_tied_weight_is_stored_once_for_integers_and_floats(optimised: Optimised, run_onnx: RunOnnx) -> None:
    network, inputs = block()
    weights, activations = rounded(network, 5), ranged(network, 8, "x", "r0", "r1")  # c1 in integers, c2 not
    file = export(network, weights, {}, activations)
    assert optimised(file).count("QLinearConv") == 2
    report = audit(file)
    assert [w.name for w in report.weights] == ["w_in", "w_tied", "w_head"]
    formats = {name: weight.format for name, weight in weights.items()}
    assert file_bytes(network, formats, {}, {n: a.format for n, a in activations.items()}) == len(file)
    expected = run_onnx(simulate(network, weights, activations), inputs)[0]
    assert np.abs(run_onnx(file, inputs)[0] - expected).mean() < 0.05


def test_a_pool_with_dilations_between_quantized_tensors_is_loaded(run_onnx: RunOnnx) -> None:
    """ONNX Runtime would make it a QLinearAveragePool, which knows no dilations, and refuse its own graph."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("AveragePool", ["c"], ["p"], kernel_shape=[2, 2], dilations=[2, 2]),
        helper.make_node("Conv", ["p", "v"], ["y"]),
    ]
    network = build(nodes, BEFORE, {"w": draw(5, 4, 3, 3), "v": draw(3, 5, 1, 1)})
    weights, activations = rounded(network, 4), ranged(network, 8)
    assert set(activations) == {"x", "c"}
    file = export(network, weights, {}, activations)
    expected = run_onnx(simulate(network, weights, activations), BEFORE)[0]
    assert np.abs(run_onnx(file, BEFORE)[0] - expected).mean() < 0.1 * activations["c"].scale


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("op_type", ["Conv", "ConvTranspose", "Gemm"])
def test_a_weight_that_is_computed_stays_float_too(run_onnx: RunOnnx, op_type: str, bias: bool) -> None:
    """ONNX Runtime folds it into a constant, and would then round that."""
    shape = (4, 6) if op_type == "Gemm" else (4, 4, 3, 3)
    inputs = {"x": draw(3, 4)} if op_type == "Gemm" else BEFORE
    nodes = [
        helper.make_node("Mul", ["v", "gain"], ["w"]),
        helper.make_node(op_type, ["x", "w", "b"] if bias else ["x", "w"], ["c"]),
        helper.make_node("Relu", ["c"], ["y"]),
    ]
    tensors = {"v": draw(*shape), "gain": draw(4, *[1] * (len(shape) - 1))}
    network = build(nodes, inputs, tensors | ({"b": draw(shape[1])} if bias else {}))
    activations = {
        "x": QuantizedActivation.covering(UnsignedFormat(8), -4.0, 4.0),
        "y": QuantizedActivation.covering(UnsignedFormat(8), 0.0, 6.0),
    }
    file = export(network, {}, {}, activations)
    np.testing.assert_allclose(run_onnx(file, inputs)[0], run_onnx(file, inputs, optimise=False)[0], atol=1e-5)
    formats = {name: activation.format for name, activation in activations.items()}
    assert file_bytes(network, {}, {}, formats) == len(file)


def test_a_tied_weight_whose_layers_have_other_output_channels_keeps_its_scales(run_onnx: RunOnnx) -> None:
    """A square matrix and its transpose: scales of columns would fit the rows of the other layer, and be wrong."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Sigmoid", ["h"], ["s"]),
        helper.make_node("Gemm", ["s", "w"], ["y"], transB=1),
    ]
    inputs = {"x": draw(3, 8)}
    network = build(nodes, inputs, {"w": draw(8, 8) * np.geomspace(0.01, 1, 8, dtype=np.float32)})
    weights = rounded(network, 6)
    sigmoid = QuantizedActivation.covering(UnsignedFormat(8), 0.0, 1.0)
    activations = ranged(network, 8) | {"s": sigmoid}
    found = run_onnx(export(network, weights, {}, activations), inputs)[0]
    expected = run_onnx(simulate(network, weights, activations), inputs)[0]
    np.testing.assert_allclose(found, expected, atol=4 * sigmoid.scale)
    assert np.abs(expected).max() > 50 * sigmoid.scale


@pytest.mark.parametrize("sign", [1, -1])
def test_branches_read_the_rounded_values(run_onnx: RunOnnx, sign: int) -> None:
    """Of a graph input as of what a node makes; the input itself keeps its name."""
    branches = [
        helper.make_graph(
            [helper.make_node("Mul", ["x", "h"], [f"b{i}"])], f"g{i}", [], [onnx.ValueInfoProto(name=f"b{i}")]
        )
        for i in range(2)
    ]
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("ReduceSum", ["h"], ["s"], keepdims=0),
        helper.make_node("Greater", ["s", "zero"], ["p"]),
        helper.make_node("If", ["p"], ["y"], then_branch=branches[0], else_branch=branches[1]),
    ]
    inputs = {"x": sign * draw(3, 8)}
    network = build(nodes, inputs, {"w": np.eye(8, dtype=np.float32), "zero": np.float32(0)})
    coarse = QuantizedActivation(UnsignedFormat(4), 0.5, 7)
    found = run_onnx(export(network, {}, {}, dict.fromkeys(["x", "h"], coarse)), inputs)[0]
    rounded_input = coarse.apply(inputs["x"])
    np.testing.assert_allclose(found, rounded_input * coarse.apply(rounded_input), atol=1e-6)

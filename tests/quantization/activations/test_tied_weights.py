"""Weights that several layers read, all or some of them integer kernels: stored once, loaded with every optimisation.

`exact` kernels are what breaks, on x86 processors without VNNI; on others ONNX Runtime does nothing of the kind.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from evaluation.runner import OnnxRunner
from network.graph import Network
from network.normalise import from_proto
from quantization.export.audit import audit
from quantization.export.cost import activation_bytes, file_bytes, skeleton_bytes, weight_bytes
from quantization.export.export import export, simulate
from quantization.formats import Granularity
from quantization.inspection.inspection import inspect
from tests.quantization.kernels import Arrays, build, draw, functions_bytes, ranged, rounded

ROWS: Arrays = {"x": draw(3, 8)}
IMAGES: Arrays = {"x": draw(2, 4, 5, 5)}
BIASES: Arrays = {"b0": draw(8), "b1": draw(8, seed=1)}
SQUARE: Arrays = {"w": draw(8, 8) / 3}
CUBE: Arrays = {"w": draw(4, 4, 3, 3) / 5}
PADS = [1, 1, 1, 1]


def three_products(opset: int) -> tuple[Network, Arrays]:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("MatMul", ["x", "w"], ["b"]),
        helper.make_node("Add", ["a", "b"], ["s"]),
        helper.make_node("MatMul", ["s", "w"], ["y"]),
    ]
    return build(nodes, ROWS, SQUARE, opset), ROWS


def two_gemms(opset: int) -> tuple[Network, Arrays]:
    nodes = [
        helper.make_node("Gemm", ["x", "w", "b0"], ["a"], transB=1),
        helper.make_node("Relu", ["a"], ["r"]),
        helper.make_node("Gemm", ["r", "w", "b1"], ["y"], transB=1),
    ]
    return build(nodes, ROWS, {**SQUARE, **BIASES}, opset), ROWS


def gemm_and_product_with_a_bias(opset: int) -> tuple[Network, Arrays]:
    nodes = [
        helper.make_node("Gemm", ["x", "w", "b0"], ["a"]),
        helper.make_node("Relu", ["a"], ["r"]),
        helper.make_node("MatMul", ["r", "w"], ["c"]),
        helper.make_node("Add", ["c", "b1"], ["y"]),
    ]
    return build(nodes, ROWS, {**SQUARE, **BIASES}, opset), ROWS


def three_convolutions_one_in_floats(opset: int) -> tuple[Network, Arrays]:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], pads=PADS),
        helper.make_node("Relu", ["a"], ["r"]),
        helper.make_node("Conv", ["r", "w"], ["s"], pads=PADS),
        helper.make_node("Tanh", ["s"], ["t"]),
        helper.make_node("Conv", ["t", "w"], ["y"], pads=PADS),
    ]
    return build(nodes, IMAGES, CUBE, opset), IMAGES


def head_of_an_embedding(opset: int) -> tuple[Network, Arrays]:
    nodes = [
        helper.make_node("Gather", ["w", "i"], ["e"], name="embed"),
        helper.make_node("Gemm", ["e", "v"], ["h"], name="hidden"),
        helper.make_node("Relu", ["h"], ["r"], name="relu"),
        helper.make_node("Gemm", ["r", "w"], ["y"], name="head", transB=1),
    ]
    tensors = {"w": draw(9, 8) / 3, "v": draw(8, 8)}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("i", TensorProto.INT64, ["N"])],
        [onnx.ValueInfoProto(name="y")],
        [numpy_helper.from_array(array, name) for name, array in tensors.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=13)
    return from_proto(onnx.shape_inference.infer_shapes(proto)), {"i": np.array([1, 2, 5])}


NETWORKS = (
    three_products,
    two_gemms,
    gemm_and_product_with_a_bias,
    three_convolutions_one_in_floats,
    head_of_an_embedding,
)


@pytest.mark.parametrize("make", NETWORKS)
@pytest.mark.parametrize("opset", [18, 25])
def test_every_width_is_loaded_and_stored_once(make: Callable[[int], tuple[Network, Arrays]], opset: int) -> None:
    network, inputs = make(opset)
    for bits, activation_bits, granularity in [
        *((bits, 8, Granularity.CHANNEL) for bits in range(2, 9)),
        (8, 8, Granularity.TENSOR),
        (8, 4, Granularity.CHANNEL),
        *([(8, 16, Granularity.CHANNEL)] if opset > 20 else []),  # no uint16 before
    ]:
        weights, activations = rounded(network, bits, granularity), ranged(network, activation_bits)
        file = export(network, weights, {}, activations)
        formats = {name: weight.format for name, weight in weights.items()}
        assert file_bytes(network, formats, {}, {n: a.format for n, a in activations.items()}) == len(file)
        assert {(w.name, w.bits) for w in audit(file).weights} == {(name, bits) for name in weights}
        expected = OnnxRunner(simulate(network, weights, activations), 1).first_output(inputs, 3)
        for exact in (False, True):
            found = OnnxRunner(file, 1, exact=exact).first_output(inputs, 3)
            if exact:
                assert np.abs(found - expected).mean() < 0.1 * np.abs(expected).mean() + 1e-4


@pytest.mark.parametrize("make", NETWORKS)
def test_sums_are_bounds(make: Callable[[int], tuple[Network, Arrays]]) -> None:
    network, _ = make(25)
    weights, activations = rounded(network, 8), ranged(network, 8)
    file = export(network, weights, {}, activations)
    total = skeleton_bytes(network, activations=True)
    total += sum(weight_bytes(weights[s.weight].format, s.shape, s.channel_axis, s.weight) for s in network.sites)
    total += sum(activation_bytes(network, [name], a.format) for name, a in activations.items())
    assert len(file) - functions_bytes(file) - 8 <= total


def test_a_certificate_takes_a_tied_weight_for_one() -> None:
    network, _ = two_gemms(25)
    found = inspect(network.proto, onnx.load_from_string(export(network, rounded(network, 8), {}, ranged(network, 8))))
    assert [(pair.name, pair.stored.stored_bits) for pair in found.weights] == [("w", 8)]
    assert [finding for finding in found.findings if finding.severity.name == "DEFECT"] == []

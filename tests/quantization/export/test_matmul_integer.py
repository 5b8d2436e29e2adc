"""Layers that round their input at every call and sum integers, against numpy, the simulated file and ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from network.batching import Batching
from network.graph import Network
from quantization.activations.quantized import QuantizedActivation
from quantization.errors import FileNotAudited
from quantization.export.audit import audit
from quantization.export.cost import file_bytes, skeleton_bytes, weight_bytes
from quantization.export.export import export, simulate
from quantization.export.products import Products, packed_products
from quantization.formats import Granularity, IntegerFormat, UnsignedFormat
from quantization.inspection.inspection import inspect
from quantization.rounding.nearest import round_nearest
from quantization.storage.weights import IntegerWeight
from tests.quantization.kernels import functions_bytes

MakeNetwork = Callable[..., Network]
RunOnnx = Callable[..., list[NDArray[Any]]]
Floats = NDArray[np.float32]

CALL = 5
EIGHT = IntegerFormat(8)
DYNAMIC = {"products": Products.DYNAMIC}
PRODUCTS = ("w_query", "w_key", "w_gemm", "w_transposed")


def draws(seed: int) -> Callable[..., Floats]:
    rng = np.random.default_rng(seed)
    return lambda *shape: rng.standard_normal(shape).astype(np.float32)


def layers(make_network: MakeNetwork) -> tuple[Network, dict[str, Floats]]:
    """Two layers that read one tensor, one of them with a vector behind it, a Gemm with a bias, one that is transposed,
    and three that must stay: a weight with two readers, one on the left, and a bias for each sample."""
    draw = draws(5)
    nodes = [
        helper.make_node("MatMul", ["x", "w_query"], ["a"]),
        helper.make_node("Add", ["a", "vector"], ["b"]),
        helper.make_node("MatMul", ["x", "w_key"], ["c"]),
        helper.make_node("Add", ["b", "c"], ["d"]),
        helper.make_node("Gemm", ["d", "w_gemm", "bias"], ["e"]),
        helper.make_node("Gemm", ["e", "w_transposed"], ["f"], transB=1),
        helper.make_node("MatMul", ["f", "w_tied"], ["g"]),
        helper.make_node("MatMul", ["g", "w_tied"], ["h"]),
        helper.make_node("Gemm", ["h", "w_each", "row"], ["y"]),
    ]
    initializers = {
        "w_query": draw(96, 64) / 8,
        "vector": draw(64),
        "w_key": draw(96, 64) / 8,
        "w_gemm": draw(64, 48) / 8,
        "bias": draw(48),
        "w_transposed": draw(32, 48) / 8,
        "w_tied": draw(32, 32) / 8,
        "w_each": draw(32, 32) / 8,
        "row": draw(1, 32),
    }
    inputs = {"x": draw(CALL, 96)}
    return fixed(make_network(nodes, inputs, initializers)), inputs


def fixed(network: Network) -> Network:
    """The network for calls of `CALL` samples."""
    return replace(network, batching=Batching(size=CALL))


def rounded(network: Network, format_: IntegerFormat = EIGHT) -> dict[str, IntegerWeight]:
    return {s.weight: round_nearest(network.weight(s.weight), format_, s.channel_axis) for s in network.sites}


def multiplied(file: bytes) -> list[str]:
    graph = onnx.ModelProto.FromString(file).graph
    return [node.input[1] for node in graph.node if node.op_type == "MatMulInteger"]


def dynamic(x: Floats) -> NDArray[np.float64]:
    """What DynamicQuantizeLinear rounds a tensor to, as its definition says."""
    lowest, highest = min(np.float32(0), x.min()), max(np.float32(0), x.max())
    scale = np.float32(highest - lowest) / np.float32(255)
    zero = np.clip(np.rint(-lowest / scale), 0, 255)
    codes = np.clip(np.rint(x / scale) + zero, 0, 255)
    return (codes.astype(np.float64) - zero) * np.float64(scale)


@pytest.mark.parametrize("shift", [-3.0, 0.0, 3.0])  # a range that ends, lies around, and begins at 0
def test_one_product_is_that_of_numpy(make_network: MakeNetwork, run_onnx: RunOnnx, shift: float) -> None:
    draw = draws(1)
    x = np.clip(draw(CALL, 7, 80), -3, 3) + np.float32(shift)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["a"]), helper.make_node("Add", ["a", "v"], ["y"])]
    network = fixed(make_network(nodes, {"x": x}, {"w": draw(80, 24), "v": draw(24)}))
    weights = rounded(network)
    assert (weights["w"].scale < 0).any()  # negative scales are among them
    expected = dynamic(x) @ weights["w"].dequantize().astype(np.float64) + network.weight("v")
    assert np.abs(x @ weights["w"].dequantize() + network.weight("v") - expected).max() > 1e-3  # what rounding changes
    for file in (export(network, weights, {}, **DYNAMIC), simulate(network, weights, **DYNAMIC)):
        for optimise in (True, False):
            (found,) = run_onnx(file, {"x": x}, optimise=optimise)
            np.testing.assert_allclose(found, expected, atol=2e-5 * np.abs(expected).max())


def test_the_file_computes_what_the_simulation_does(make_network: MakeNetwork, run_onnx: RunOnnx) -> None:
    network, inputs = layers(make_network)
    weights = rounded(network)
    file = export(network, weights, {}, **DYNAMIC)
    assert multiplied(file) == list(PRODUCTS)
    (found,), (expected,) = run_onnx(file, inputs), run_onnx(simulate(network, weights, **DYNAMIC), inputs)
    (floats,) = run_onnx(export(network, weights, {}), inputs)
    size = np.abs(expected).max()
    # a code next to the middle of two may be the other one
    assert np.abs(found - expected).max() <= 5e-3 * size
    assert np.abs(floats - expected).max() > 5e-3 * size


def test_who_reads_the_same_tensor_shares_its_codes_and_onnx_runtime_fuses_all(
    make_network: MakeNetwork, optimised: Callable[[bytes], list[str]]
) -> None:
    network, _ = layers(make_network)
    file = export(network, rounded(network), {}, **DYNAMIC)
    graph = onnx.ModelProto.FromString(file).graph
    assert [node.input[0] for node in graph.node if node.op_type == "DynamicQuantizeLinear"] == ["x", "d", "e"]
    kernels = optimised(file)
    assert [kernels.count(name) for name in ("MatMulIntegerToFloat", "DynamicQuantizeMatMul")] == [2, 2]
    assert not {"MatMulInteger", "Cast", "Mul"} & set(kernels)
    onnx.checker.check_model(onnx.ModelProto.FromString(file))


def test_bytes_are_known_before(make_network: MakeNetwork) -> None:
    network, _ = layers(make_network)
    weights = rounded(network)
    formats = {name: weight.format for name, weight in weights.items()}
    for unpacked in ((), ("w_key",), PRODUCTS):
        file = export(network, weights, {"k": "v"}, unpacked=unpacked, **DYNAMIC)
        assert file_bytes(network, formats, {"k": "v"}, unpacked=unpacked, **DYNAMIC) == len(file)
        assert set(multiplied(file)) == {*PRODUCTS}.difference(unpacked)
    products = packed_products(network, formats, Products.DYNAMIC)
    planned = skeleton_bytes(network) + sum(
        weight_bytes(EIGHT, site.shape, site.channel_axis, site.weight, products.get(site.weight))
        for site in network.sites
    )
    file = export(network, weights, {}, **DYNAMIC)
    assert len(file) - functions_bytes(file) - 4 <= planned


def test_what_the_file_holds_is_read_back(make_network: MakeNetwork) -> None:
    network, _ = layers(make_network)
    weights = rounded(network)
    file = export(network, weights, {}, **DYNAMIC)
    assert onnx.ModelProto.FromString(file).SerializeToString(deterministic=True) == file
    stored = {weight.name: weight for weight in audit(file).weights}
    assert {name: weight.format for name, weight in stored.items()} == dict.fromkeys(weights, EIGHT)
    assert stored["w_transposed"].shape == (48, 32)
    assert (stored["w_transposed"].size_bytes, stored["w_transposed"].scale_bytes) == (48 * 32, 5 * 32)
    inspected = inspect(network.proto, onnx.ModelProto.FromString(file))
    assert not [finding for finding in inspected.findings if finding.severity == "defect"]
    assert {weight.name for weight in inspected.weights} >= {*PRODUCTS}


@pytest.mark.parametrize(
    "change",
    [
        "another format",
        "fewer bits",
        "blocks",
        "free batch",
        "packed alone",
    ],
)
def test_everything_else_stays_as_it_is(make_network: MakeNetwork, change: str) -> None:
    network, _ = layers(make_network)
    if change == "free batch":  # samples that happen to share a call would round each other
        network = replace(network, batching=Batching())
    formats = {
        "another format": IntegerFormat(8, Granularity.TENSOR),
        "fewer bits": IntegerFormat(7),
        "blocks": IntegerFormat(3, Granularity.BLOCK, True, 16),
    }
    weights = rounded(network, formats.get(change, EIGHT))
    products = Products.PACKED if change == "packed alone" else Products.DYNAMIC
    assert export(network, weights, {}, products=products) == export(network, weights, {})
    assert simulate(network, weights, products=products) == simulate(network, weights)


def test_layers_that_read_quantized_tensors_keep_their_scales(make_network: MakeNetwork, run_onnx: RunOnnx) -> None:
    network, inputs = layers(make_network)
    weights = rounded(network)
    formats = {name: weight.format for name, weight in weights.items()}
    activations = {"d": QuantizedActivation(UnsignedFormat(8), 0.0625, 120)}
    file = export(network, weights, {}, activations, **DYNAMIC)
    assert multiplied(file) == ["w_query", "w_key", "w_transposed"]
    widths = {name: activation.format for name, activation in activations.items()}
    assert file_bytes(network, formats, {}, widths, **DYNAMIC) == len(file)
    assert {weight.name: weight.format for weight in audit(file).weights} == formats
    (found,) = run_onnx(file, inputs)
    (expected,) = run_onnx(simulate(network, weights, activations, **DYNAMIC), inputs)
    assert np.abs(found - expected).max() <= 0.02 * np.abs(expected).max()  # a code here and there


def tampered(file: bytes, change: str) -> bytes:
    model = onnx.ModelProto.FromString(file)
    graph = model.graph
    product = next(node for node in graph.node if node.input[1:2] == ["w_gemm"])
    cast = next(node for node in graph.node if node.input[:1] == product.output[:1])
    scaled = next(node for node in graph.node if cast.output[0] in node.input)
    factor = next(node for node in graph.node if node.output[0] == scaled.input[1])
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    match change:
        case "scales of another weight":
            factor.input[1] = next(t.name for t in graph.initializer if list(t.dims) == [64] and t.data_type == 1)
        case "scale of another input":
            factor.input[0] = next(n for n in graph.node if n.op_type == "DynamicQuantizeLinear").output[1]
        case "codes of another input":
            product.input[0] = next(n for n in graph.node if n.op_type == "DynamicQuantizeLinear").output[0]
        case "bytes of scales":
            tensors[factor.input[1]].raw_data = tensors[factor.input[1]].raw_data[:-4]
        case "zero points":
            tensors[product.input[3]].raw_data = bytes([1] * 48)
        case "no zero points":
            del product.input[3]
        case "codes":
            tensors["w_gemm"].CopyFrom(numpy_helper.from_array(np.zeros((64, 48), np.uint8), "w_gemm"))
        case "cast":
            cast.attribute[0].i = onnx.TensorProto.DOUBLE
        case "another reader":
            graph.node.append(helper.make_node("Cast", [product.output[0]], ["other"], to=1))
        case "another product":
            graph.node.append(product)
    return model.SerializeToString()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("scales of another weight", r"is of type 1, shape \(64,\) and 256 bytes, expected 1, \(48,\) and 192"),
        ("scale of another input", "not scaled by the scale of its input"),
        ("codes of another input", "multiplies what no DynamicQuantizeLinear makes"),
        ("bytes of scales", "and 188 bytes, expected"),
        ("zero points", "zero points z.. that are not zero"),
        ("no zero points", "reads no zero points, which is no tensor of the file"),
        ("codes", "w_gemm is of type 2, .* expected 3"),
        ("cast", "sums that are not scaled, or read by others"),
        ("another reader", "sums that are not scaled, or read by others"),
        ("another product", "is not the only one that reads it"),
    ],
)
def test_the_audit_believes_no_scale(make_network: MakeNetwork, change: str, message: str) -> None:
    network, _ = layers(make_network)
    file = export(network, rounded(network), {}, **DYNAMIC)
    with pytest.raises(FileNotAudited, match=message):
        audit(tampered(file, change), {"w_query"})
    # without the network it may have come so
    others = {weight.name for weight in audit(tampered(file, change)).weights}
    assert others >= {*PRODUCTS} - {"w_gemm"}


def test_products_that_came_with_the_network_are_left_out(make_network: MakeNetwork) -> None:
    network, _ = layers(make_network)
    file = tampered(export(network, rounded(network), {}, **DYNAMIC), "codes")
    assert "w_gemm" not in {weight.name for weight in audit(file, {"w_gemm"}).weights}

"""Layers that multiply packed, against the simulated file, numpy, and the file that unpacks at load."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper

from network.graph import Network
from quantization.activations.quantized import QuantizedActivation
from quantization.errors import FileNotAudited
from quantization.export.audit import audit
from quantization.export.cost import file_bytes, skeleton_bytes, weight_bytes
from quantization.export.export import export, simulate
from quantization.export.products import Products, packed_products
from quantization.formats import BLOCK_SIZES, Granularity, IntegerFormat, UnsignedFormat
from quantization.rounding.nearest import round_nearest
from quantization.storage.weights import QuantizedWeight
from tests.quantization.kernels import functions_bytes

MakeNetwork = Callable[..., Network]
RunOnnx = Callable[..., list[NDArray[Any]]]


def layers(make_network: MakeNetwork) -> tuple[Network, dict[str, NDArray[Any]]]:
    """A MatMul with a vector behind it, a Gemm with a bias, one transposed, a tied weight, and three that must stay:
    a bias for each sample, a weight on the left, and one that is also an embedding."""
    rng = np.random.default_rng(3)

    def draw(*shape: int) -> NDArray[np.float32]:
        return rng.standard_normal(shape).astype(np.float32)

    nodes = [
        helper.make_node("MatMul", ["x", "w_first"], ["a"]),
        helper.make_node("Add", ["a", "vector"], ["b"]),
        helper.make_node("Gemm", ["b", "w_gemm", "bias"], ["c"]),
        helper.make_node("Gemm", ["c", "w_transposed"], ["d"], transB=1),
        helper.make_node("MatMul", ["d", "w_tied"], ["e"]),
        helper.make_node("MatMul", ["e", "w_tied"], ["f"]),
        helper.make_node("Gemm", ["f", "w_each", "row"], ["g"]),
        helper.make_node("Gather", ["w_table", "zero"], ["h"], axis=0),
        helper.make_node("Add", ["g", "h"], ["i"]),
        helper.make_node("Gemm", ["i", "w_table"], ["y"], transB=1),
    ]
    initializers = {
        "w_first": draw(512, 256) / 16,
        "vector": draw(256),
        "w_gemm": draw(256, 512) / 16,
        "bias": draw(512),
        "w_transposed": draw(256, 512) / 16,
        "w_tied": draw(256, 256) / 16,
        "w_each": draw(256, 256) / 16,
        "row": draw(1, 256),
        "w_table": draw(13, 256),
        "zero": np.array([0]),
    }
    inputs = {"x": draw(3, 512)}
    return make_network(nodes, inputs, initializers), inputs


PACKED = ("w_first", "w_gemm", "w_transposed", "w_tied")


def rounded(network: Network, format_: IntegerFormat) -> dict[str, QuantizedWeight]:
    return {s.weight: round_nearest(network.weight(s.weight), format_, s.channel_axis) for s in network.sites}


def operators(file: bytes) -> list[str]:
    graph = onnx.ModelProto.FromString(file).graph
    return [node.input[1] for node in graph.node if node.op_type == "MatMulNBits"]


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("block", BLOCK_SIZES)
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_the_same_products_from_packed_weights(
    make_network: MakeNetwork, run_onnx: RunOnnx, bits: int, block: int, symmetric: bool
) -> None:
    network, inputs = layers(make_network)
    format_ = IntegerFormat(bits, Granularity.BLOCK, symmetric, block)
    weights = rounded(network, format_)
    scales = np.concatenate([w.scale.reshape(-1) for w in weights.values()])  # type: ignore[attr-defined]
    assert not symmetric or (scales < 0).any()  # negative ones are among them
    (unpacked,) = run_onnx(export(network, weights, {}), inputs)
    (expected,) = run_onnx(simulate(network, weights, products=Products.PACKED), inputs)
    size = np.abs(expected).max()
    file = export(network, weights, {"k": "v"}, products=Products.PACKED)
    assert sorted(set(operators(file))) == ([] if bits == 2 and block in (16, 256) else sorted(PACKED))
    (found,) = run_onnx(file, inputs)
    # codes of equal inputs are equal; those of a later layer differ where a float sum lies next to the middle of two
    assert np.abs(found - expected).max() <= 2e-3 * size
    assert not operators(file) or np.abs(found - unpacked).max() > 2e-3 * size  # what rounding the inputs changes
    formats = {n: w.format for n, w in weights.items()}
    assert file_bytes(network, formats, {"k": "v"}, products=Products.PACKED) == len(file)
    assert onnx.ModelProto.FromString(file).SerializeToString(deterministic=True) == file
    report = audit(file)
    assert report.total_bytes == len(file)
    assert {w.name: w.format for w in report.weights} == formats
    for stored in report.weights:
        if stored.name in operators(file):
            blocks = stored.elements // block
            zero_points = 0 if symmetric else stored.shape[1] * -(-stored.shape[0] // block * bits // 8)
            assert stored.size_bytes == stored.elements * bits // 8
            assert stored.scale_bytes == 4 * blocks + zero_points


@pytest.mark.parametrize("symmetric", [True, False])
def test_sums_over_sites_are_bounds(make_network: MakeNetwork, symmetric: bool) -> None:
    network, _ = layers(make_network)
    format_ = IntegerFormat(4, Granularity.BLOCK, symmetric, 32)
    formats = {site.weight: format_ for site in network.sites}
    products = packed_products(network, formats, Products.PACKED)
    planned = skeleton_bytes(network) + sum(
        weight_bytes(format_, site.shape, site.channel_axis, site.weight, products.get(site.weight))
        for site in network.sites
    )
    file = export(network, rounded(network, format_), {}, products=Products.PACKED)
    size = len(file) - functions_bytes(file)
    assert size - 4 <= planned <= size + 120 * len(products)


def test_other_formats_stay_as_they_are(make_network: MakeNetwork) -> None:
    network, _ = layers(make_network)
    blocks = (IntegerFormat(b, Granularity.BLOCK, True, block) for b, block in ((2, 16), (2, 256), (3, 32), (7, 32)))
    for format_ in (IntegerFormat(4), *blocks):
        weights = rounded(network, format_)
        assert export(network, weights, {}, products=Products.PACKED) == export(network, weights, {})
        assert simulate(network, weights, products=Products.PACKED) == simulate(network, weights)


def test_weights_that_are_to_be_unpacked_are(make_network: MakeNetwork) -> None:
    network, _ = layers(make_network)
    weights = rounded(network, IntegerFormat(8, Granularity.BLOCK, True, 32))
    formats = {name: weight.format for name, weight in weights.items()}
    some = {"products": Products.PACKED, "unpacked": {"w_gemm"}}
    file = export(network, weights, {}, **some)
    assert set(operators(file)) == {*PACKED} - {"w_gemm"}
    assert file_bytes(network, formats, {}, **some) == len(file)
    assert {w.name: w.format for w in audit(file).weights} == formats
    assert export(network, weights, {}, products=Products.PACKED, unpacked=set(PACKED)) == export(network, weights, {})


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("bits", "block"), [(2, 32), (4, 16), (4, 256), (8, 16), (8, 128)])
def test_a_row_is_rounded_in_the_blocks_of_the_weight(
    make_network: MakeNetwork, run_onnx: RunOnnx, bits: int, block: int, symmetric: bool
) -> None:
    """Against numpy in float64: `127 x / largest`, rounded, of each block of a row; one of zeros stays zero."""
    rng = np.random.default_rng(7)
    x = (rng.standard_normal((2, 3, 512)) * np.exp(rng.standard_normal((2, 3, 1)) * 3)).astype(np.float32)
    x[0, 0, :256] = 0
    weight = round_nearest(
        rng.standard_normal((512, 64)).astype(np.float32), IntegerFormat(bits, Granularity.BLOCK, symmetric, block), 1
    )
    network = make_network(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], {"x": x}, {"w": np.zeros((512, 64), np.float32)}
    )
    shares = x.astype(np.float64).reshape(-1, block)
    step = np.abs(shares).max(axis=1, keepdims=True) / 127
    codes = np.rint(np.divide(shares, step, out=np.zeros_like(shares), where=step > 0))
    expected = (codes * step).reshape(x.shape) @ weight.dequantize().astype(np.float64)
    size = np.sqrt(np.square(expected).mean(axis=-1, keepdims=True))
    for file in (
        export(network, {"w": weight}, {}, products=Products.PACKED),
        simulate(network, {"w": weight}, products=Products.PACKED),
    ):
        (found,) = run_onnx(file, {"x": x})
        # a quotient next to the middle of two codes may take the other one in float32: one step of one input
        assert (np.abs(found - expected) <= 2e-3 * size + 1e-12).all()


def test_between_quantized_activations(make_network: MakeNetwork, run_onnx: RunOnnx) -> None:
    network, inputs = layers(make_network)
    weights = rounded(network, IntegerFormat(4, Granularity.BLOCK, True, 32))
    activations = {name: QuantizedActivation(UnsignedFormat(8), 0.0625, 128) for name in ("x", "b", "c", "d")}
    file = export(network, weights, {}, activations, products=Products.PACKED)
    formats = {name: a.format for name, a in activations.items()}
    plan = {name: w.format for name, w in weights.items()}
    assert file_bytes(network, plan, {}, formats, products=Products.PACKED) == len(file)
    simulated = simulate(network, weights, activations, products=Products.PACKED)
    (expected,) = run_onnx(simulated, inputs, optimise=False)
    (found,) = run_onnx(file, inputs, optimise=False)
    assert np.abs(found - expected).max() <= 0.02 * np.abs(expected).max()  # a code here and there
    (optimised,) = run_onnx(file, inputs)
    assert np.abs(optimised - expected).max() <= 0.02 * np.abs(expected).max()


@pytest.mark.parametrize(
    ("attribute", "value", "message"),
    [
        ("bits", 5, "shape .* expected"),
        ("bits", 9, "multiplies in no format: bits must be 2 to 8, got 9"),
        ("block_size", 64, "expected"),
        ("accuracy_level", 2, "attributes that are never written, among .*accuracy_level = 2"),
        ("K", 100, "100 rows does not divide"),
    ],
)
def test_the_audit_believes_no_attribute(make_network: MakeNetwork, attribute: str, value: int, message: str) -> None:
    network, _ = layers(make_network)
    weights = rounded(network, IntegerFormat(4, Granularity.BLOCK, True, 32))
    model = onnx.ModelProto.FromString(export(network, weights, {}, products=Products.PACKED))
    node = next(node for node in model.graph.node if node.op_type == "MatMulNBits")
    next(a for a in node.attribute if a.name == attribute).i = value
    with pytest.raises(FileNotAudited, match=message):
        audit(model.SerializeToString())

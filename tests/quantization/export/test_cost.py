"""Planned bytes are written bytes, and the audit finds them in the file."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from network.graph import Network
from quantization.activations.quantized import QuantizedActivation
from quantization.errors import FileNotAudited
from quantization.export.audit import audit
from quantization.export.cost import activation_bytes, file_bytes, skeleton_bytes, weight_bytes
from quantization.export.export import export
from quantization.formats import FloatFormat, Format, Granularity, IntegerFormat, UnsignedFormat
from quantization.rounding.nearest import round_nearest
from tests.quantization.kernels import build, draw, functions_bytes

MakeNetwork = Callable[..., Network]
FORMATS: list[Format] = [FloatFormat()] + [
    IntegerFormat(b, g) for b in range(2, 9) for g in (Granularity.CHANNEL, Granularity.TENSOR)
]


def chain(make_network: MakeNetwork, shapes: list[tuple[int, int]], opset: int = 25) -> Network:
    rng = np.random.default_rng(0)
    nodes = [helper.make_node("MatMul", [f"h{i}", f"w.layer{i}"], [f"h{i + 1}"]) for i in range(len(shapes))]
    weights = {f"w.layer{i}": rng.standard_normal(s).astype(np.float32) for i, s in enumerate(shapes)}
    return make_network(nodes, {"h0": np.zeros((1, shapes[0][0]), np.float32)}, weights, opset)


def written(network: Network, plan: dict[str, Format], metadata: dict[str, str]) -> bytes:
    weights = {
        site.weight: round_nearest(network.weight(site.weight), format_, site.channel_axis)
        for site in network.sites
        if isinstance(format_ := plan[site.weight], IntegerFormat)
    }
    return export(network, weights, metadata)


@given(
    st.lists(st.sampled_from(FORMATS), min_size=1, max_size=8),
    st.lists(st.integers(1, 40), min_size=9, max_size=9),
    st.sampled_from([18, 25]),
)
@settings(max_examples=120, deadline=None)
def test_file_bytes_are_exact(make_network: MakeNetwork, formats: list[Format], sizes: list[int], opset: int) -> None:
    network = chain(make_network, [(sizes[i], sizes[i + 1]) for i in range(len(formats))], opset)
    plan = {f"w.layer{i}": format_ for i, format_ in enumerate(formats)}
    metadata = {"bitbudget.plan": "x" * sizes[0]}
    assert file_bytes(network, plan, metadata) == len(written(network, plan, metadata))


@pytest.mark.parametrize("opset", [18, 25])
@pytest.mark.parametrize("seed", range(5))
def test_sums_over_sites_are_bounds(make_network: MakeNetwork, seed: int, opset: int) -> None:
    """Of the file without its functions, but for the prefixes of lengths."""
    rng = np.random.default_rng(seed)
    network = chain(make_network, [(200, 150), (150, 131), (131, 257), (257, 64), (64, 200), (200, 200)], opset)
    plan = {site.weight: FORMATS[rng.integers(len(FORMATS))] for site in network.sites}
    file = written(network, plan, {})
    planned = skeleton_bytes(network) + sum(
        weight_bytes(plan[site.weight], site.shape, site.channel_axis, site.weight, opset=opset)
        for site in network.sites
    )
    size = len(file) - functions_bytes(file)
    assert size - 4 <= planned <= size
    assert functions_bytes(file) < (2400 if opset == 25 else 9000)


@pytest.mark.parametrize("granularity", [Granularity.TENSOR, Granularity.CHANNEL])
@pytest.mark.parametrize("bits", range(2, 9))
def test_a_weight_costs_its_bits_and_its_scales(bits: int, granularity: Granularity) -> None:
    shape = (64, 32, 3, 3)
    cost = weight_bytes(IntegerFormat(bits, granularity), shape, 0, "layer1.conv1.weight")
    payload = math.prod(shape) * bits / 8 + (4 * 64 if granularity is Granularity.CHANNEL else 4)
    assert payload < cost < payload + 160
    assert weight_bytes(FloatFormat(), shape, 0, "w") < 4 * math.prod(shape) + 30


@pytest.mark.parametrize("format_", FORMATS)
def test_the_audit_finds_the_planned_width(make_network: MakeNetwork, format_: Format) -> None:
    network = chain(make_network, [(13, 7), (7, 16)])
    file = written(network, dict.fromkeys(("w.layer0", "w.layer1"), format_), {})
    report = audit(file)
    assert report.total_bytes == len(file)
    for site, stored in zip(network.sites, report.weights, strict=True):
        assert (stored.name, stored.shape, stored.elements) == (site.weight, site.shape, site.size)
        assert stored.bits == format_.bits
        assert site.size * format_.bits / 8 <= stored.size_bytes < site.size * format_.bits / 8 + 3
        scales = {FloatFormat: 0}.get(type(format_), 4)
        per_channel = isinstance(format_, IntegerFormat) and format_.granularity is Granularity.CHANNEL
        assert stored.scale_bytes == scales * (site.shape[1] if per_channel else 1)


def _cut_digit(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].raw_data = model.graph.initializer[0].raw_data[:-1]


def _widen_digit(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.zeros((13, 7), np.int16), "a00"))


def _drop_scale(model: onnx.ModelProto) -> None:
    del model.graph.initializer[2]


def _change_function(model: onnx.ModelProto) -> None:
    model.functions[0].node[-1].op_type = "Div"


def _call_another(model: onnx.ModelProto) -> None:
    model.graph.node[0].op_type = "Int2"


def _integer_scale(model: onnx.ModelProto) -> None:
    model.graph.initializer[2].data_type = onnx.TensorProto.INT32


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_cut_digit, "a00 holds 22 bytes, expected 23"),
        (_widen_digit, "those of no format"),
        (_drop_scale, "s00 is no tensor"),
        (_change_function, "not the function that int3/channel needs"),
        (_call_another, "its call Int2 are those of no format"),
        (_integer_scale, "those of no format"),
    ],
)
def test_the_audit_believes_no_name(
    make_network: MakeNetwork, damage: Callable[[onnx.ModelProto], None], message: str
) -> None:
    network = chain(make_network, [(13, 7)])
    model = onnx.load_from_string(written(network, {"w.layer0": IntegerFormat(3)}, {}))
    damage(model)
    with pytest.raises(FileNotAudited, match=message):
        audit(model.SerializeToString())


def test_the_audit_of_no_model_is_an_error() -> None:
    with pytest.raises(FileNotAudited, match="no ONNX file"):
        audit(b"\xff\xff\xff not a model")


def quantized_chain(make_network: MakeNetwork) -> tuple[Network, dict[str, QuantizedActivation]]:
    network = chain(make_network, [(13, 8), (8, 16), (16, 5)])
    formats = {"h0": UnsignedFormat(8), "h1": UnsignedFormat(4), "h2": UnsignedFormat(16)}
    return network, {name: QuantizedActivation(format_, 0.5, 3) for name, format_ in formats.items()}


@pytest.mark.parametrize("seed", range(8))
def test_sums_over_activations_are_bounds_and_file_bytes_exact(make_network: MakeNetwork, seed: int) -> None:
    network, activations = quantized_chain(make_network)
    rng = np.random.default_rng(seed)
    plan = {site.weight: FORMATS[rng.integers(len(FORMATS))] for site in network.sites}
    chosen = {name: activation for name, activation in activations.items() if rng.random() < 0.7}
    weights = {
        site.weight: round_nearest(network.weight(site.weight), format_, site.channel_axis)
        for site in network.sites
        if isinstance(format_ := plan[site.weight], IntegerFormat)
    }
    file = export(network, weights, {}, chosen)
    assert file_bytes(network, plan, {}, {name: a.format for name, a in chosen.items()}) == len(file)
    weights_bytes = sum(weight_bytes(plan[s.weight], s.shape, s.channel_axis, s.weight) for s in network.sites)
    activations_bytes = sum(activation_bytes(network, [name], a.format) for name, a in chosen.items())
    base = skeleton_bytes(network, activations=True)
    assert len(file) - functions_bytes(file) - 4 <= base + weights_bytes + activations_bytes
    assert all(40 < activation_bytes(network, [name], a.format) < 200 for name, a in activations.items())


def test_a_format_of_activations_is_none_of_weights() -> None:
    with pytest.raises(TypeError, match="uint8/tensor is a format of activations, and w is a weight"):
        weight_bytes(UnsignedFormat(8), (3, 3), 0, "w")


def test_the_audit_finds_activations_by_their_tensors(make_network: MakeNetwork) -> None:
    network, activations = quantized_chain(make_network)
    weights = {s.weight: round_nearest(network.weight(s.weight), IntegerFormat(3), 1) for s in network.sites}
    report = audit(export(network, weights, {}, activations))
    assert {a.name: (a.bits, a.scale, a.zero_point) for a in report.activations} == {
        "h0": (8, 0.5, 3),
        "h1": (4, 0.5, 3),
        "h2": (16, 0.5, 3),
    }
    assert [(w.name, w.bits) for w in report.weights] == [(f"w.layer{i}", 3) for i in range(3)]


def test_the_audit_believes_no_function_of_a_bias(make_network: MakeNetwork) -> None:
    nodes = [helper.make_node("Gemm", ["x", "w", "b"], ["y"])]
    tensors = {"w": np.ones((4, 3), np.float32), "b": np.ones(3, np.float32)}
    network = make_network(nodes, {"x": np.zeros((1, 4), np.float32)}, tensors)
    weights = {"w": round_nearest(tensors["w"], IntegerFormat(4), 1)}
    file = export(network, weights, {}, {"x": QuantizedActivation(UnsignedFormat(8), 0.5, 0)})
    assert [w.bits for w in audit(file).weights] == [4]
    model = onnx.load_from_string(file)
    next(f for f in model.functions if f.name == "Bias").node[0].op_type = "Add"
    with pytest.raises(FileNotAudited, match="its function is not the one that Bias stands for"):
        audit(model.SerializeToString())


def test_a_weight_of_an_integer_kernel_and_a_float_layer_counts_its_second_scales() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Softmax", ["h"], ["s"]),
        helper.make_node("MatMul", ["s", "w"], ["y"]),
    ]
    network = build(nodes, {"x": draw(3, 400)}, {"w": draw(400, 400)})
    weights = {"w": round_nearest(network.weight("w"), IntegerFormat(8), 1)}
    file = export(network, weights, {}, {"x": QuantizedActivation.covering(UnsignedFormat(8), -4.0, 4.0)})
    planned = skeleton_bytes(network, activations=True)
    planned += weight_bytes(IntegerFormat(8), (400, 400), 1, "w") + activation_bytes(network, ["x"], UnsignedFormat(8))
    assert len(file) - functions_bytes(file) - 8 <= planned <= len(file)

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from onnx import TensorProto, helper

from network.graph import Network
from quantization.errors import ExportTooLarge, QuantizationError
from quantization.export.audit import audit
from quantization.export.export import export, simulate
from quantization.export.products import Products
from quantization.formats import (
    CodebookFormat,
    Granularity,
    HadamardFormat,
    IntegerFormat,
    PowerFormat,
    WeightFormat,
)
from quantization.rounding.nearest import round_nearest
from quantization.storage.weights import IntegerWeight

MakeNetwork = Callable[..., Network]
RunOnnx = Callable[..., list[NDArray[Any]]]
ALL_BITS = range(2, 9)

# operator, input shape, weight shape (odd on purpose), attributes, weight first
LAYERS: dict[str, tuple[str, tuple[int, ...], tuple[int, ...], dict[str, Any], bool]] = {
    "Conv": ("Conv", (2, 3, 6, 6), (5, 3, 3, 3), {"pads": [1, 1, 1, 1]}, False),
    "Conv in groups": ("Conv", (2, 4, 6, 6), (8, 2, 2, 2), {"group": 2}, False),
    "Conv 1-D": ("Conv", (2, 3, 9), (3, 3, 3), {}, False),
    "ConvTranspose": ("ConvTranspose", (2, 3, 5, 5), (3, 5, 3, 3), {"strides": [2, 2]}, False),
    "Gemm": ("Gemm", (3, 7), (7, 11), {}, False),
    "Gemm transposed": ("Gemm", (3, 8), (16, 8), {"transB": 1}, False),
    "MatMul": ("MatMul", (2, 4, 5), (5, 13), {}, False),
    "MatMul from the left": ("MatMul", (2, 5, 4), (9, 5), {}, True),
    "MatMul stacked": ("MatMul", (3, 4, 5), (3, 5, 7), {}, False),
    "Gather": ("Gather", (2, 6), (17, 5), {}, True),
}


def single(
    make_network: MakeNetwork, name: str, seed: int = 0, opset: int = 25
) -> tuple[Network, dict[str, NDArray[Any]]]:
    op_type, input_shape, shape, attributes, weight_first = LAYERS[name]
    rng = np.random.default_rng(seed)
    inputs = rng.standard_normal(input_shape).astype(np.float32)
    if op_type == "Gather":
        inputs = rng.integers(0, shape[0], input_shape)
    node = helper.make_node(op_type, ["w", "x"] if weight_first else ["x", "w"], ["y"], **attributes)
    weights = {"w": rng.standard_normal(shape).astype(np.float32)}
    return make_network([node], {"x": inputs}, weights, opset), {"x": inputs}


def rounded(network: Network, bits: Mapping[str, int] | int, granularity: Granularity = Granularity.CHANNEL):
    return {
        site.weight: round_nearest(
            network.weight(site.weight),
            IntegerFormat(bits if isinstance(bits, int) else bits[site.weight], granularity),
            site.channel_axis,
        )
        for site in network.sites
        if isinstance(bits, int) or site.weight in bits
    }


def residual_network(make_network: MakeNetwork, opset: int = 25) -> tuple[Network, dict[str, NDArray[Any]]]:
    """Every width in one network, with a tied weight, a weight that stays float, and one used inside an If."""
    rng = np.random.default_rng(5)

    def draw(*shape: int) -> NDArray[np.float32]:
        return rng.standard_normal(shape).astype(np.float32)

    branch = [
        helper.make_graph([helper.make_node("MatMul", ["flat", name], [f"{name}_out"])], name, [], [
            helper.make_tensor_value_info(f"{name}_out", TensorProto.FLOAT, None)])
        for name in ("w_then", "w_else")
    ]  # fmt: skip
    nodes = [
        helper.make_node("Conv", ["x", "w_in", "b"], ["c0"], pads=[1, 1, 1, 1], doc_string="the exporter's words"),
        helper.make_node("Relu", ["c0"], ["r0"]),
        helper.make_node("Conv", ["r0", "w_tied"], ["c1"], pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["c1", "w_tied"], ["c2"], pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["c2", "r0"], ["r1"]),
        helper.make_node("Conv", ["r1", "w_float"], ["c3"]),
        helper.make_node("ConvTranspose", ["c3", "w_up"], ["c4"]),
        helper.make_node("Conv", ["c4", "w_5"], ["c5"]),
        helper.make_node("Flatten", ["c5"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w_gemm"], ["g"], transB=1),
        helper.make_node("ReduceSum", ["g"], ["sum"], keepdims=0),
        helper.make_node("Greater", ["sum", "zero"], ["positive"]),
        helper.make_node("If", ["positive"], ["branch"], then_branch=branch[0], else_branch=branch[1]),
        helper.make_node("Add", ["g", "branch"], ["h"]),
        helper.make_node("MatMul", ["h", "w_last"], ["y"]),
    ]
    initializers = {
        "w_in": draw(7, 3, 3, 3),
        "b": draw(7),
        "w_tied": draw(7, 7, 3, 3),
        "w_float": draw(5, 7, 1, 1),
        "w_up": draw(5, 3, 2, 2),
        "w_5": draw(3, 3, 3, 3),
        "w_gemm": draw(9, 75),
        "w_then": draw(75, 9),
        "w_else": draw(75, 9),
        "w_last": draw(9, 4),
        "zero": np.zeros((), np.float32),
        "a00": draw(1),  # a name that the export would give
    }
    inputs = {"x": draw(1, 3, 6, 6)}
    network = make_network(nodes, inputs, initializers, opset)
    network.proto.graph.value_info.append(helper.make_tensor_value_info("c0", TensorProto.FLOAT, None))
    network.proto.graph.node[0].metadata_props.add(key="exporter", value="x" * 100)
    network.proto.doc_string = "a model"
    network.proto.metadata_props.add(key="author", value="somebody")
    network.proto.metadata_props.add(key="bitbudget.plan", value="of an earlier run")
    return network, inputs


WIDTHS = {"w_in": 8, "w_tied": 3, "w_up": 2, "w_5": 5, "w_gemm": 7, "w_last": 6}


@pytest.mark.parametrize("bits", ALL_BITS)
@pytest.mark.parametrize("granularity", [Granularity.TENSOR, Granularity.CHANNEL])
@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("opset", [18, 25])
def test_file_computes_what_numpy_dequantizes(
    make_network: MakeNetwork, run_onnx: RunOnnx, opset: int, layer: str, granularity: Granularity, bits: int
) -> None:
    network, inputs = single(make_network, layer, opset=opset)
    weights = rounded(network, bits, granularity)
    file = export(network, weights, {})
    onnx.checker.check_model(onnx.load_from_string(file), full_check=True)
    for optimise in (True, False):
        expected = run_onnx(simulate(network, weights), inputs, optimise=optimise)
        assert run_onnx(file, inputs, optimise=optimise)[0].tobytes() == expected[0].tobytes()


@given(
    st.sampled_from(ALL_BITS),
    st.sampled_from([18, 25]),
    st.booleans(),
    hnp.array_shapes(min_dims=2, max_dims=3, max_side=7),
    st.data(),
)
@settings(max_examples=200, deadline=None)
def test_dequantized_to_the_last_bit(
    make_network: MakeNetwork,
    run_onnx: RunOnnx,
    bits: int,
    opset: int,
    per_channel: bool,
    shape: tuple[int, ...],
    data: st.DataObject,
) -> None:
    """The weight itself as output: any codes, any scales (negative ones give zeros with a sign)."""
    half = 1 << (bits - 1)
    codes = data.draw(hnp.arrays(np.int8, shape, elements=st.integers(-half, half - 1)))
    scale_shape = (1,) * (len(shape) - 1) + shape[-1:] if per_channel else ()
    magnitude = st.floats(2.0**-100, 2.0**100, width=32)
    scale = data.draw(hnp.arrays(np.float32, scale_shape, elements=magnitude | magnitude.map(lambda x: -x)))
    granularity = Granularity.CHANNEL if per_channel else Granularity.TENSOR
    weight = IntegerWeight(IntegerFormat(bits, granularity), codes, scale)
    node = helper.make_node("Identity", ["w"], ["y"])
    network = make_network([node], {"x": np.zeros((1, 1), np.float32)}, {"w": np.zeros(shape, np.float32)}, opset)
    file = export(network, {"w": weight}, {})
    (found,) = run_onnx(file, {"x": np.zeros((1, 1), np.float32)})
    assert found.tobytes() == weight.dequantize().tobytes()


@pytest.mark.parametrize("opset", [18, 25])
@pytest.mark.parametrize("layer", LAYERS)
def test_nothing_of_it_is_left_at_run_time(make_network: MakeNetwork, tmp_path: Path, layer: str, opset: int) -> None:
    network, _ = single(make_network, layer, opset=opset)
    for bits in ALL_BITS:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
        file = export(network, rounded(network, bits), {})
        onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        optimised = onnx.load(tmp_path / "optimised.onnx")
        assert [node.op_type for node in optimised.graph.node] == [LAYERS[layer][0]]


@pytest.mark.parametrize("opset", [18, 25])
def test_mixed_widths_tied_weights_and_branches(make_network: MakeNetwork, run_onnx: RunOnnx, opset: int) -> None:
    network, inputs = residual_network(make_network, opset)
    weights = rounded(network, WIDTHS)
    weights |= {
        name: round_nearest(network.weight(name), IntegerFormat(bits), 1)
        for name, bits in (("w_then", 4), ("w_else", 3))
    }
    file = export(network, weights, {"bitbudget.plan": "abc"})
    for sign in (1, -1):
        signed = {"x": sign * inputs["x"]}
        expected = run_onnx(simulate(network, weights), signed)
        assert run_onnx(file, signed)[0].tobytes() == expected[0].tobytes()
    stored = {weight.name: weight for weight in audit(file).weights}
    assert {name: stored[name].bits for name in weights} == {n: w.format.bits for n, w in weights.items()}
    assert stored["w_float"].bits == 32


def test_keeps_what_is_the_users_and_drops_what_is_not(make_network: MakeNetwork) -> None:
    network, _ = residual_network(make_network)
    before = network.proto.SerializeToString(deterministic=True)
    file = export(network, rounded(network, WIDTHS), {"bitbudget.plan": "abc", "bitbudget.version": "1"})
    model = onnx.load_from_string(file)
    assert network.proto.SerializeToString(deterministic=True) == before
    assert list(model.graph.input) == list(network.proto.graph.input)
    assert list(model.graph.output) == list(network.proto.graph.output)
    own = [node for node in model.graph.node if node.domain != "bitbudget"]
    assert [(n.name, n.op_type, n.input, n.output) for n in own] == [
        (n.name, n.op_type, n.input, n.output) for n in network.proto.graph.node
    ]
    assert model.doc_string == "a model"
    assert {e.key: e.value for e in model.metadata_props} == {
        "author": "somebody",
        "bitbudget.plan": "abc",
        "bitbudget.version": "1",
    }
    assert not model.graph.value_info
    assert b"exporter" not in file
    assert [f.name for f in model.functions] == ["Bits1", "Int", "Int1", "Int2", "Int21"]


def test_same_weights_same_bytes(make_network: MakeNetwork) -> None:
    network, _ = residual_network(make_network)
    weights = rounded(network, WIDTHS)
    other_order = dict(reversed(weights.items()))
    assert export(network, weights, {"k": "v"}) == export(network, other_order, {"k": "v"})
    assert simulate(network, weights) == simulate(network, other_order)


def test_without_weights_the_network_is_as_it_was(make_network: MakeNetwork, run_onnx: RunOnnx) -> None:
    network, inputs = residual_network(make_network)
    model = onnx.load_from_string(export(network, {}, {}))
    assert not model.functions
    assert [o.domain for o in model.opset_import] == [""]
    assert run_onnx(model, inputs)[0].tobytes() == run_onnx(network.proto, inputs)[0].tobytes()


def test_refuses_weights_that_are_not_the_networks(make_network: MakeNetwork) -> None:
    network, _ = single(make_network, "Gemm")
    weight = rounded(network, 4)["w"]
    with pytest.raises(QuantizationError, match=r"weight v must replace .* the network has none"):
        export(network, {"v": weight}, {})
    other, _ = single(make_network, "MatMul")
    with pytest.raises(QuantizationError, match=r"shape \(7, 11\); the network has \(5, 13\)"):
        simulate(other, {"w": weight})


def test_refuses_an_old_opset_and_a_file_of_its_own(make_network: MakeNetwork) -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    eye = np.eye(3, dtype=np.float32)
    old = make_network(nodes, {"x": eye}, {"w": eye}, opset=17)
    with pytest.raises(QuantizationError, match="need opset 18, got a network of opset 17; normalise"):
        export(old, rounded(old, 4), {})
    network = make_network(nodes, {"x": eye}, {"w": eye, "v": eye})
    file = onnx.load_from_string(export(network, rounded(network, 4), {}))
    twice = Network(file, network.inputs, network.outputs, ())
    with pytest.raises(QuantizationError, match="already calls functions of the domain bitbudget"):
        export(twice, {"v": round_nearest(eye, IntegerFormat(4), 0)}, {})


def test_refuses_a_file_of_two_gigabytes(make_network: MakeNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    network, _ = single(make_network, "Gemm")
    size = len(export(network, rounded(network, 4), {}))
    monkeypatch.setattr("quantization.export.draft.LARGEST_MESSAGE", size - 1)
    with pytest.raises(ExportTooLarge) as caught:
        export(network, rounded(network, 4), {})
    assert str(caught.value) == (
        f"the file would have {size} bytes or more; protobuf, and so an ONNX file, holds at most {size - 1} (2 GB): "
        "allow fewer bits for its weights, or split the network into several files"
    )
    monkeypatch.setattr("quantization.export.export.LARGEST_MESSAGE", 300)
    with pytest.raises(ExportTooLarge, match="would have 308 bytes or more"):
        simulate(network, rounded(network, 4))


def test_bytes_are_those_of_protobuf(make_network: MakeNetwork) -> None:
    """Field after field the same as the message serialized as a whole, large tensors of the network among them."""
    network, _ = residual_network(make_network)
    network.proto.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros((200, 200), np.float32), "large"))
    network.proto.graph.node.append(helper.make_node("Identity", ["large"], ["unread"]))
    network.proto.producer_name = "somebody"
    file = export(network, rounded(network, WIDTHS), {"bitbudget.plan": "abc"})
    assert onnx.ModelProto.FromString(file).SerializeToString(deterministic=True) == file


SQUARE: list[WeightFormat] = [
    *(IntegerFormat(4, granularity) for granularity in (Granularity.TENSOR, Granularity.CHANNEL)),
    IntegerFormat(4, Granularity.BLOCK, True, 32),
    IntegerFormat(4, Granularity.BLOCK, False, 32),
    PowerFormat(3),
    HadamardFormat(4),
    CodebookFormat(3),
    CodebookFormat(3, 50),
]


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("format_", SQUARE, ids=lambda format_: format_.name)
def test_a_square_weight_has_its_scales_along_the_axis_of_its_rounding(
    make_network: MakeNetwork, run_onnx: RunOnnx, format_: WeightFormat, axis: int
) -> None:
    """Its tensors have as many bytes along either axis."""
    eye = np.eye(64, dtype=np.float32)
    values = np.random.default_rng(4).standard_normal((64, 64)).astype(np.float32)
    values *= np.exp(np.arange(64, dtype=np.float32) / 16)[:, None]
    network = make_network([helper.make_node("MatMul", ["x", "w"], ["y"])], {"x": eye}, {"w": values})
    weight = round_nearest(values, format_, axis)
    np.testing.assert_array_equal(run_onnx(export(network, {"w": weight}, {}), {"x": eye})[0], weight.dequantize())
    packed = run_onnx(export(network, {"w": weight}, {}, products=Products.PACKED), {"x": eye})[0]
    # the middle code is taken off in floats, so that zeros are as exact as the largest value of the block
    np.testing.assert_allclose(packed, weight.dequantize(), rtol=1e-5, atol=3e-7 * np.abs(values).max())

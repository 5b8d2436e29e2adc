"""Files that tools make are read as what they are, and nothing is wrong with them."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantFormat, QuantType
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

from network.admission import AdmissionLimits, admit
from network.normalise import normalise
from quantization.export.export import export
from quantization.formats import CodebookFormat, Granularity, HalfFormat, IntegerFormat, PowerFormat
from quantization.inspection.inspection import inspect
from quantization.rounding.nearest import round_nearest
from tests.quantization.inspection.conftest import build, defects, draw

pytestmark = pytest.mark.filterwarnings("ignore")  # of ONNX Runtime's tools


def whole(inspection):
    """Every weight is matched; the stored forms."""
    assert all(weight.matched_by == "name" for weight in inspection.weights)
    assert defects(inspection) == []
    return [weight.stored for weight in inspection.weights]


@pytest.mark.parametrize("quant_format", [QuantFormat.QDQ, QuantFormat.QOperator])
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("folds", [False, True])
def test_static(convolutions, static, quant_format, per_channel, folds):
    file = static(convolutions, folds=folds, quant_format=quant_format, per_channel=per_channel)
    found = inspect(convolutions, file)
    for stored in whole(found):
        assert (stored.element_type, stored.stored_bits, stored.symmetric) == ("int8", 8, True)
        assert stored.granularity == ("channel" if per_channel else "tensor")
    assert max(weight.closeness.error for weight in found.weights) < 0.01
    assert found.activations[0].name == "x"
    assert found.activations[0].low < -2 < 2 < found.activations[0].high


def test_static_with_unsigned_weights_says_their_zero_points(convolutions, static):
    stored = whole(inspect(convolutions, static(convolutions, weight_type=QuantType.QUInt8)))
    assert not any(weight.symmetric for weight in stored)


def test_range_reduced_by_a_bit(convolutions, static):
    stored = whole(inspect(convolutions, static(convolutions, reduce_range=True)))
    assert all(weight.stored_bits == 8 and 6.5 < weight.used_bits <= 7.01 for weight in stored)


def test_four_bits_run_on_floats(products, static):
    found = inspect(products, static(products, weight_type=QuantType.QInt4, per_channel=True))
    assert {(s.element_type, s.stored_bits, s.size_bytes) for s in whole(found)} == {("int4", 4, 1024)}
    assert {slow.operator for slow in found.kernels.slow} >= {"DequantizeLinear"}


@pytest.mark.parametrize("per_channel", [False, True])
def test_dynamic(products, dynamic, per_channel):
    found = inspect(products, dynamic(products, per_channel=per_channel))
    assert {stored.scales for stored in whole(found)} == ({64, 32} if per_channel else {1})
    assert found.kernels.slow == ()


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("symmetric", [False, True])
def test_weights_in_blocks(products, bits, symmetric):
    quantizer = MatMulNBitsQuantizer(
        onnx.ModelProto.FromString(products.SerializeToString()), block_size=32, is_symmetric=symmetric, bits=bits
    )
    quantizer.process()
    stored = whole(inspect(products, quantizer.model.model))
    assert {(s.stored_bits, s.granularity, s.scales) for s in stored} == {(bits, "block", 64)}
    assert {s.symmetric for s in stored} == {symmetric}


@pytest.mark.parametrize(
    "format_",
    [IntegerFormat(2), IntegerFormat(3), IntegerFormat(8), IntegerFormat(4, Granularity.BLOCK, True, 32), HalfFormat(),
     IntegerFormat(5, Granularity.CHANNEL, False), CodebookFormat(3), CodebookFormat(3, 45), PowerFormat(4)],
    ids=lambda format_: format_.name,
)  # fmt: skip
@pytest.mark.parametrize("opset", [18, 25])
def test_our_own(products, format_, opset):
    network = normalise(admit(products.SerializeToString(), AdmissionLimits()), {"x": (32,)}, opset)
    weights = {s.weight: round_nearest(network.weight(s.weight), format_, s.channel_axis) for s in network.sites}
    found = inspect(products, onnx.ModelProto.FromString(export(network, weights, {})))
    assert {stored.stored_bits for stored in whole(found)} == {float(format_.bits)}
    if not isinstance(format_, HalfFormat):
        assert {stored.element_type for stored in whole(found)} == {format_.name}


def test_codes_that_arithmetic_turns_into_values(products):
    """Packed into nibbles of bytes, and taken apart by Cast, BitShift, Sub and Mul."""
    weight = numpy_helper.to_array(products.graph.initializer[0])
    scale = np.abs(weight).max() / 7
    codes = (np.clip(np.rint(weight / scale), -8, 7) + 8).astype(np.uint8).ravel()
    nodes = [
        helper.make_node("Constant", [], ["four"], value=numpy_helper.from_array(np.uint8(4))),
        helper.make_node("Constant", [], ["mask"], value=numpy_helper.from_array(np.uint8(15))),
        helper.make_node("BitShift", ["w_packed", "four"], ["high"], direction="RIGHT"),
        helper.make_node("BitwiseAnd", ["w_packed", "mask"], ["low"]),
        helper.make_node("Concat", ["low", "high"], ["nibbles"], axis=1),
        helper.make_node("Reshape", ["nibbles", "shape"], ["codes"]),
        helper.make_node("Cast", ["codes"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["numbers", "point"], ["centred"]),
        helper.make_node("Mul", ["centred", "scale"], ["m1.weight"]),
    ]
    file = onnx.ModelProto.FromString(products.SerializeToString())
    del file.graph.initializer[0]
    for name, array in {
        "w_packed": (codes[::2] | codes[1::2] << 4).reshape(-1, 1), "shape": np.array([32, 64]),
        "point": np.float32(8), "scale": np.float32(scale),
    }.items():  # fmt: skip
        file.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
    rest = list(file.graph.node)
    del file.graph.node[:]
    file.graph.node.extend([*nodes, *rest])
    weight_found = inspect(products, file).weights[0]
    assert (weight_found.stored.stored_bits, weight_found.stored.granularity) == (4, "tensor")
    assert weight_found.closeness.error < 0.2
    assert weight_found.stored.size_bytes == 1024


def test_weights_in_the_bodies_of_an_if(dynamic):
    def branch(name: str, seed: int) -> onnx.GraphProto:
        return helper.make_graph(
            [helper.make_node("MatMul", ["x", f"{name}.weight"], [f"{name}_y"], name)], name, [],
            [helper.make_tensor_value_info(f"{name}_y", TensorProto.FLOAT, None)],
            [numpy_helper.from_array(draw(16, 16, seed=seed), f"{name}.weight")],
        )  # fmt: skip

    nodes = [
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        helper.make_node("Greater", ["sum", "zero"], ["positive"]),
        helper.make_node("If", ["positive"], ["y"], "if", then_branch=branch("t", 1), else_branch=branch("e", 2)),
    ]
    model = build(nodes, {"x": [16]}, {"zero": np.float32(0).reshape(())}, ["y"])
    found = inspect(model, dynamic(model, extra_options={"EnableSubgraph": True}))
    assert [(w.name, w.path) for w in found.weights] == [("t.weight", "if/1/"), ("e.weight", "if/0/")] or [
        w.name for w in found.weights
    ] == ["e.weight", "t.weight"]
    assert {stored.element_type for stored in whole(found)} == {"int8"}


def test_numbered_names_are_matched_by_their_values(products, dynamic):
    """Two exports of one network number their tensors differently."""
    file = dynamic(products)
    names = sorted({name for node in file.graph.node for name in (*node.input, *node.output)} - {"x", "y"})
    new = {name: f"val_{number}" for number, name in enumerate(names)}
    for tensor in file.graph.initializer:
        tensor.name = new[tensor.name]
    for number, node in enumerate(file.graph.node):
        node.name = f"node_{number}"
        for parts in (node.input, node.output):
            for place, name in enumerate(parts):
                parts[place] = new.get(name, name)
    found = inspect(products, file)
    expected = [(new[f"{name}.weight_quantized"], "values") for name in ("m1", "m2")]
    assert [(weight.quantized_name, weight.matched_by) for weight in found.weights] == expected
    assert defects(found) == []


def test_an_inspection_is_json(convolutions, static):
    found = inspect(convolutions, static(convolutions))
    assert json.loads(json.dumps(dataclasses.asdict(found)))["weights"][0]["closeness"]["error"] < 0.01

"""Files that were tampered with: ONNX Runtime runs many of them, and none passes for what it is not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from network.graph import Network
from quantization.activations.quantized import QuantizedActivation
from quantization.errors import FileNotAudited
from quantization.export.audit import audit
from quantization.export.export import export
from quantization.export.products import Products
from quantization.formats import Granularity, HalfFormat, IntegerFormat, UnsignedFormat
from quantization.rounding.nearest import round_nearest
from tests.quantization.kernels import build, draw

MakeNetwork = Callable[..., Network]
RunOnnx = Callable[..., list[NDArray[Any]]]


def packed(make_network: MakeNetwork, opset: int = 25) -> onnx.ModelProto:
    """Two MatMuls in 3-bit integers, one in float16 and one in float."""
    names = ("w_a", "w_b", "w_half", "w_float")
    tensors = {name: draw(16, 16, seed=i) for i, name in enumerate(names)}
    nodes = [helper.make_node("MatMul", [f"h{i}", name], [f"h{i + 1}"]) for i, name in enumerate(names)]
    network = make_network(nodes, {"h0": draw(2, 16)}, tensors, opset)
    formats = {"w_a": IntegerFormat(3), "w_b": IntegerFormat(3), "w_half": HalfFormat()}
    weights = {name: round_nearest(network.weight(name), format_, 1) for name, format_ in formats.items()}
    return onnx.ModelProto.FromString(export(network, weights, {}))


def on_integers() -> onnx.ModelProto:
    """A square weight that an integer kernel and a float layer use, and one that only a kernel with a bias does."""
    nodes = [
        helper.make_node("Gemm", ["x", "w"], ["h"]),
        helper.make_node("Tanh", ["h"], ["t"]),
        helper.make_node("Gemm", ["t", "w"], ["i"]),
        helper.make_node("Gemm", ["i", "v", "b"], ["y"]),
    ]
    network = build(nodes, {"x": draw(3, 16)}, {"w": draw(16, 16), "v": draw(16, 5), "b": draw(5)})
    weights = {n: round_nearest(network.weight(n), IntegerFormat(3), 1) for n in ("w", "v")}
    activations = {
        "x": QuantizedActivation.covering(UnsignedFormat(4), -4.0, 4.0),
        "i": QuantizedActivation.covering(UnsignedFormat(8), -9.0, 9.0),
    }
    return onnx.ModelProto.FromString(export(network, weights, {}, activations))


def multiplied(make_network: MakeNetwork) -> onnx.ModelProto:
    """Two layers that multiply with one weight as it is packed, one of them with a bias."""
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Gemm", ["h", "w", "b"], ["y"])]
    network = make_network(nodes, {"x": draw(3, 64)}, {"w": draw(64, 64), "b": draw(64)})
    weight = round_nearest(network.weight("w"), IntegerFormat(4, Granularity.BLOCK, True, 32), 1)
    return onnx.ModelProto.FromString(export(network, {"w": weight}, {}, products=Products.PACKED))


def tensor_of(model: onnx.ModelProto, name: str) -> onnx.TensorProto:
    return next(tensor for tensor in model.graph.initializer if tensor.name == name)


def call_of(model: onnx.ModelProto, name: str) -> onnx.NodeProto:
    return next(node for node in model.graph.node if name in node.output)


def refused(model: onnx.ModelProto, message: str) -> None:
    with pytest.raises(FileNotAudited, match=message):
        audit(model.SerializeToString())


def copy_of(model: onnx.ModelProto, name: str) -> str:
    """A tensor with other values, in place of the one called `name`."""
    tensor = model.graph.initializer.add()
    tensor.CopyFrom(tensor_of(model, name))
    tensor.name = "copy"
    tensor.raw_data = (2 * numpy_helper.to_array(tensor)).tobytes()
    return "copy"


def test_an_overload_is_refused(make_network: MakeNetwork, run_onnx: RunOnnx) -> None:
    model = packed(make_network)
    expected = run_onnx(model, {"h0": draw(2, 16)})[0]
    call = call_of(model, "w_a")
    own = next(f for f in model.functions if f.name == call.op_type)
    function = onnx.FunctionProto()
    function.CopyFrom(own)
    function.overload = "other"
    function.node[-1].op_type = "Div"
    model.functions.insert(0, function)
    call.overload = "other"
    assert np.abs(run_onnx(model, {"h0": draw(2, 16)})[0] - expected).max() > 0.1
    refused(model, "several functions are called bitbudget.Int1")
    del model.functions[-1]
    refused(model, "function Int1 is an overload, 'other'")
    function.ClearField("overload")
    model.functions[0].CopyFrom(own)
    refused(model, "node .* calls an overload of Int1, 'other'")


@pytest.mark.parametrize(("domain", "name"), [("", "MatMul"), ("com.microsoft", "MatMulNBits")])
def test_operators_are_not_defined_anew(make_network: MakeNetwork, domain: str, name: str) -> None:
    model = packed(make_network)
    model.functions.append(helper.make_function(domain, name, [], [], [], []))
    refused(model, f"defines {name}, an operator of {domain or 'ONNX'}, anew")


def test_a_name_stands_for_one_tensor(make_network: MakeNetwork) -> None:
    model = packed(make_network)
    model.graph.initializer.append(tensor_of(model, "w_float"))
    refused(model, "several initializers are called w_float")
    del model.graph.initializer[-1]
    inner = helper.make_graph([], "inner", [], [], [tensor_of(model, "w_float")])
    model.graph.node.append(helper.make_node("If", ["h4"], ["z"], then_branch=inner, else_branch=inner))
    refused(model, "initializers w_float of the main graph are hidden by inner ones")


def test_digits_make_one_weight(make_network: MakeNetwork) -> None:
    for name, others in (("w_a", "another weight is made from its digits"), ("w_half", "another weight is made")):
        model = packed(make_network)
        call = model.graph.node.add()
        call.CopyFrom(call_of(model, name))
        call.output[0] = "second"
        refused(model, others)
    model = packed(make_network)
    first, second = call_of(model, "w_a"), call_of(model, "w_b")
    second.input[1] = first.input[1]  # the lower digit alone
    refused(model, "weight w_b: another weight is made from its digits")
    model = packed(make_network)
    call_of(model, "w_b").output[0] = "w_a"
    refused(model, "several weights are called w_a")


def test_the_form_for_kernels_is_that_of_the_same_weight() -> None:
    model = on_integers()
    report = audit(model.SerializeToString())
    assert [(w.name, w.bits) for w in report.weights] == [("w", 3), ("v", 3)]
    kernel = next(n for n in model.graph.node if n.domain == "bitbudget" and n.output[0].startswith("i"))
    scale = kernel.input[-1]
    kernel.input[-1] = copy_of(model, scale)
    refused(model, f"weight {kernel.output[0]}: another weight is made from its digits")
    tensor_of(model, "copy").raw_data = tensor_of(model, scale).raw_data
    assert audit(model.SerializeToString()).weights == report.weights
    # along the other axis of the square weight, with its own function
    other = onnx.ModelProto.FromString(model.SerializeToString())
    call = next(n for n in other.graph.node if n.output[0] == kernel.output[0])
    function = onnx.FunctionProto()
    function.CopyFrom(next(f for f in other.functions if f.name == call.op_type))
    function.name = call.op_type = call.op_type.replace("q1", "q0")
    function.node[-1].attribute[0].i = 0
    other.functions.append(function)
    refused(other, "another weight is made from its digits")


def test_layers_multiply_with_one_weight(make_network: MakeNetwork) -> None:
    model = multiplied(make_network)
    assert [w.name for w in audit(model.SerializeToString()).weights] == ["w"]
    node = next(n for n in reversed(model.graph.node) if n.op_type == "MatMulNBits")
    node.input[2] = copy_of(model, node.input[2])
    refused(model, "weight w: node1 reads it with other scales")


def test_rows_in_another_order_are_refused(make_network: MakeNetwork) -> None:
    model = multiplied(make_network)
    model.graph.initializer.append(numpy_helper.from_array(np.arange(64, dtype=np.int32)[::-1] // 32, "groups"))
    node = next(n for n in model.graph.node if n.op_type == "MatMulNBits")
    node.input.extend([""] * (4 - len(node.input)))
    node.input.append("groups")
    refused(model, "node0 reads its rows in an order of their own, groups")


@pytest.mark.parametrize("attribute", ["accuracy_level", "weight_prepacked"])
def test_an_attribute_that_is_never_written_is_refused(make_network: MakeNetwork, attribute: str) -> None:
    model = multiplied(make_network)
    node = next(n for n in model.graph.node if n.op_type == "MatMulNBits")
    assert len(audit(model.SerializeToString()).weights) == 1
    node.attribute.append(helper.make_attribute(attribute, 4))
    refused(model, f"attributes that are never written, .*{attribute} = 4")


@pytest.mark.parametrize("make", ["packed", "on_integers", "multiplied"])
def test_nodes_that_lack_something_are_refused_or_left_alone(make_network: MakeNetwork, make: str) -> None:
    model = on_integers() if make == "on_integers" else {"packed": packed, "multiplied": multiplied}[make](make_network)
    for place, node in enumerate(model.graph.node):
        for field, kept in [("input", n) for n in range(len(node.input))] + [("output", 0)]:
            changed = onnx.ModelProto.FromString(model.SerializeToString())
            del getattr(changed.graph.node[place], field)[kept:]
            try:
                audit(changed.SerializeToString())
            except FileNotAudited:
                continue
            assert node.domain != "bitbudget" or node.op_type == "Bias"
    for place in range(len(model.graph.initializer)):
        changed = onnx.ModelProto.FromString(model.SerializeToString())
        changed.graph.initializer[place].raw_data = b"xyz"
        try:
            audit(changed.SerializeToString())
        except FileNotAudited:
            continue
        # what is left alone: floats that are no weights' scales, and those whose shape says their size
        assert changed.graph.initializer[place].data_type in (TensorProto.FLOAT, TensorProto.INT32)


def test_a_call_says_the_shape_of_packed_digits_and_nothing_else(make_network: MakeNetwork) -> None:
    model = packed(make_network, opset=18)
    assert [w.format.name for w in audit(model.SerializeToString()).weights][:2] == ["int3/channel"] * 2
    attribute = call_of(model, "w_a").attribute[0]
    for shape, message in (
        ([8, 32], "its tensors and its call Int21 are those of no format"),
        ([-16, -16], r"its call Int21 gives it the shape \(-16, -16\)"),
        ([16, 16], "has attributes that are never written"),
    ):
        attribute.ints[:] = shape
        if shape == [16, 16]:
            call_of(model, "w_a").attribute.append(helper.make_attribute("more", 1))
        refused(model, f"weight w_a: .*{message}")
    del call_of(model, "w_a").attribute[:]
    refused(model, "are those of no format")


def test_values_outside_of_the_file_are_refused(make_network: MakeNetwork) -> None:
    outside = TensorProto(name="t", data_type=TensorProto.FLOAT, dims=[16], data_location=TensorProto.EXTERNAL)
    outside.external_data.add(key="location", value="../secret")
    inner = helper.make_graph([], "inner", [], [], [outside])
    constant = helper.make_node("Constant", [], ["c"], value=outside)
    function = helper.make_function("mine", "F", [], ["c"], [constant], [])
    changes: list[Callable[[onnx.ModelProto], Any]] = [
        lambda model: model.graph.initializer.append(outside),
        lambda model: model.graph.node.append(constant),
        lambda model: model.graph.node.append(helper.make_node("If", ["c"], ["d"], then_branch=inner)),
        lambda model: model.graph.sparse_initializer.append(onnx.SparseTensorProto(values=outside)),
        lambda model: model.functions.append(function),
    ]
    for change in changes:
        model = packed(make_network)
        change(model)
        refused(model, "tensor t has its values outside of the file; only self-contained files are audited: save it")

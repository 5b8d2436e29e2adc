"""Networks of float32 as exporters write them in another float type."""

from __future__ import annotations

import onnx
from ml_dtypes import bfloat16
from onnx import ModelProto, TensorProto, helper, numpy_helper

NUMPY = {TensorProto.FLOAT16: "float16", TensorProto.DOUBLE: "float64", TensorProto.BFLOAT16: bfloat16}


def converted(model: ModelProto, type_: int, *, interface: bool = True) -> ModelProto:
    """Constants of the main graph in `type_` and computed in it; inputs and outputs too, or with a Cast at each."""
    copy = ModelProto.FromString(model.SerializeToString())
    graph = copy.graph
    for tensor in (*graph.initializer, *(a.t for node in graph.node for a in node.attribute if a.name == "value")):
        if tensor.data_type == TensorProto.FLOAT:
            values = numpy_helper.to_array(tensor).astype(NUMPY[type_])
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.i == TensorProto.FLOAT:
                attribute.i = type_
    for value in (*graph.input, *graph.output):
        if value.type.tensor_type.elem_type != TensorProto.FLOAT:
            continue
        if interface:
            value.type.tensor_type.elem_type = type_
            continue
        is_input = any(value is other for other in graph.input)
        _between(graph, value.name, type_ if is_input else TensorProto.FLOAT, is_input)
    return copy


def with_casts(model: ModelProto, type_: int) -> ModelProto:
    """Weights are stored in `type_`, each with a Cast behind it, and everything is computed in float32."""
    copy = ModelProto.FromString(model.SerializeToString())
    graph = copy.graph
    casts = []
    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            name = tensor.name
            tensor.CopyFrom(
                numpy_helper.from_array(numpy_helper.to_array(tensor).astype(NUMPY[type_]), f"{name}.stored")
            )
            casts.append(helper.make_node("Cast", [tensor.name], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    return copy


def _between(graph: onnx.GraphProto, name: str, type_: int, is_input: bool) -> None:
    """A Cast behind an input, or before an output."""
    inner = f"{name}.cast"
    for node in graph.node:
        names = node.input if is_input else node.output
        for place, old in enumerate(names):
            if old == name:
                names[place] = inner
    if is_input:
        graph.node.insert(0, helper.make_node("Cast", [name], [inner], to=type_))
    else:
        graph.node.append(helper.make_node("Cast", [inner], [name], to=type_))

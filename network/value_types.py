"""The types of all values of a network: what onnx infers, and where it knows no type, what ONNX Runtime does."""

from __future__ import annotations

from collections.abc import Sequence

import onnx

from network.onnx_graph import graphs, shape_skeleton
from network.runtime import session_of


def value_types(proto: onnx.ModelProto) -> dict[str, onnx.TypeProto]:
    """The type of every value and initializer, without its shape; in the bodies of If, Loop and Scan as far as onnx
    infers it."""
    known = shape_skeleton(proto)
    known.graph.value_info.extend(proto.graph.value_info)
    inferred = onnx.shape_inference.infer_shapes(known, data_prop=True).graph
    types: dict[str, onnx.TypeProto] = {}
    for graph in graphs(inferred):
        for value in (*graph.input, *graph.value_info, *graph.output):
            if value.type.WhichOneof("value") is not None:
                types[value.name] = _without_shape(value.type)
    for tensor in proto.graph.initializer:
        types[tensor.name] = onnx.helper.make_tensor_type_proto(tensor.data_type, None)
    unknown = [name for node in proto.graph.node for name in node.output if name and name not in types]
    return {**types, **_types_in_runtime(proto, unknown)} if unknown else types


def _types_in_runtime(proto: onnx.ModelProto, names: Sequence[str]) -> dict[str, onnx.TypeProto]:
    """The types of tensors that onnx cannot infer, as those behind an operator that only ONNX Runtime knows."""
    model = onnx.ModelProto()
    model.CopyFrom(proto)
    returned = {value.name for value in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in returned)
    kinds = {value.name: value.type for value in session_of(model, 1).get_outputs()}
    # such as "tensor(float)"
    elements = {name: kinds[name].removeprefix("tensor(").removesuffix(")").upper() for name in names}
    known = set(onnx.TensorProto.DataType.keys())
    return {
        name: onnx.helper.make_tensor_type_proto(onnx.TensorProto.DataType.Value(element), None)
        for name, element in elements.items()
        if element in known
    }


def _without_shape(value: onnx.TypeProto) -> onnx.TypeProto:
    """A segment is fed whatever shape arrives: that of the file may be of another batch."""
    kind = onnx.TypeProto()
    kind.CopyFrom(value)
    inner = kind
    while (wrapper := inner.WhichOneof("value")) in ("sequence_type", "optional_type"):
        inner = getattr(inner, wrapper).elem_type
    if wrapper == "tensor_type":
        inner.tensor_type.ClearField("shape")
    return kind

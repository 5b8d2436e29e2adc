"""Networks whose weights are float16, bfloat16 or float64, as networks in float32 with the interface that they have.

What such a network computes is computed in float32, between a Cast behind each of its inputs and one before each of its
outputs. Values of 16 bits are float32 values too, so that nothing of a weight is lost; a float64 value is rounded.
ONNX Runtime has few kernels for 16 bits on a CPU, and runs most of such a network in float32 itself.

Whether the outputs are still those of the file is for `network.faithful` to find out.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

import numpy as np
import onnx
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, TypeProto, helper, numpy_helper

from network.finite import constants
from network.onnx_graph import graphs, nodes, own_inputs, subgraphs

HALVES = frozenset({TensorProto.FLOAT16, TensorProto.BFLOAT16})
OTHERS = HALVES | {TensorProto.DOUBLE}
"""The float types that a network is not planned in."""

_LARGEST = float(np.finfo(np.float32).max)
_FEWEST_AXES = 2
# attributes that name an element type, whatever the operator
_NAMING = frozenset({"to", "dtype", "output_dtype", "output_datatype", "stash_type", "precision", "softmax_precision"})
# operators to which a type means bits, not numbers
_OF_BITS = frozenset({"BitCast"})


def weight_types(model: ModelProto) -> frozenset[int]:
    """The types among `OTHERS` that constants with the axes of a weight have; none where a node reads their bits."""
    if any(node.op_type in _OF_BITS for node in nodes(model.graph)):
        return frozenset()
    weights = (tensor for _, tensor in constants(model) if len(tensor.dims) >= _FEWEST_AXES)
    return frozenset(tensor.data_type for tensor in weights if tensor.data_type in OTHERS)


def widened(model: ModelProto, types: Collection[int]) -> ModelProto:
    """A copy of an admitted model that computes in float32 what has one of `types`; inputs and outputs keep theirs."""
    copy = ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    taken = _names(graph)
    declared = [(value, _element(value)) for value in (*own_inputs(graph), *graph.output)]
    inputs = [value.name for value in own_inputs(graph) if _element(value) in types]
    made = {name for node in graph.node for name in node.output}
    outputs = dict.fromkeys(value.name for value in graph.output if value.name in made and _element(value) in types)
    constant = {value.name for value in graph.output} - made
    kept = [_copy(t) for t in graph.initializer if t.name in constant and t.data_type in types]
    inside = {name: _free(f"{name}/float32", taken) for name in (*inputs, *outputs, *(t.name for t in kept))}
    _rename(graph, inside)
    _convert(graph, types)
    first = [_cast(name, inside[name], TensorProto.FLOAT) for name in inputs]
    last = [_cast(inside[value.name], value.name, type_) for value, type_ in declared if value.name in outputs]
    inner = [*first, *graph.node, *{node.output[0]: node for node in last}.values()]
    del graph.node[:]
    graph.node.extend(inner)
    graph.initializer.extend(kept)
    for value, type_ in declared:
        value.type.tensor_type.elem_type = type_
    return copy


def _names(graph: GraphProto) -> set[str]:
    """Every name of a value, in subgraphs too."""
    taken: set[str] = set()
    for inner in graphs(graph):
        taken.update(value.name for value in (*inner.input, *inner.output, *inner.initializer))
        taken.update(name for node in inner.node for name in (*node.input, *node.output))
    return taken


def _free(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    taken.add(name)
    return name


def _element(value: onnx.ValueInfoProto) -> int:
    return int(value.type.tensor_type.elem_type)


def _copy(tensor: TensorProto) -> TensorProto:
    copy = TensorProto()
    copy.CopyFrom(tensor)
    return copy


def _cast(source: str, target: str, type_: int) -> NodeProto:
    return helper.make_node("Cast", [source], [target], f"{source}/cast", to=type_)


def _rename(graph: GraphProto, names: dict[str, str]) -> None:
    """Whatever makes or reads these values, in subgraphs too, but for the inputs and outputs of `graph` itself."""
    for inner in graphs(graph):
        for tensor in inner.initializer:
            tensor.name = names.get(tensor.name, tensor.name)
        for node in inner.node:
            for values in (node.input, node.output):
                for place, name in enumerate(values):
                    if name in names:
                        values[place] = names[name]
            for body in subgraphs(node):
                for value in body.output:
                    value.name = names.get(value.name, value.name)


def _convert(graph: GraphProto, types: Collection[int]) -> None:
    """Give everything that has one of `types` float32, in subgraphs too."""
    for inner in graphs(graph):
        del inner.value_info[:]
        for tensor in inner.initializer:
            _widen(tensor, types)
        for value in (*inner.input, *inner.output):
            _retype(value.type, types)
        for node in inner.node:
            for attribute in node.attribute:
                _widen_attribute(attribute, types)


def _widen_attribute(attribute: AttributeProto, types: Collection[int]) -> None:
    for tensor in _tensors(attribute):
        _widen(tensor, types)
    for type_ in (*([attribute.tp] if attribute.HasField("tp") else []), *attribute.type_protos):
        _retype(type_, types)
    if attribute.name not in _NAMING:
        return
    if attribute.type == AttributeProto.INT and attribute.i in types:
        attribute.i = TensorProto.FLOAT
    if attribute.type == AttributeProto.STRING and attribute.s in _written(types):  # Cast before opset 6
        attribute.s = b"FLOAT"


def _tensors(attribute: AttributeProto) -> Iterable[TensorProto]:
    return (*([attribute.t] if attribute.HasField("t") else []), *attribute.tensors)


def _written(types: Collection[int]) -> set[bytes]:
    return {TensorProto.DataType.Name(type_).encode() for type_ in types}


def _widen(tensor: TensorProto, types: Collection[int]) -> None:
    """What float32 does not hold becomes the largest that it does: a mask of the lowest float64 stays finite."""
    if tensor.data_type not in types:
        return
    values = numpy_helper.to_array(tensor)
    if tensor.data_type == TensorProto.DOUBLE:
        values = np.where(np.isfinite(values), np.clip(values, -_LARGEST, _LARGEST), values)
    tensor.CopyFrom(numpy_helper.from_array(np.asarray(values, dtype=np.float32), tensor.name))


def _retype(type_: TypeProto, types: Collection[int]) -> None:
    match type_.WhichOneof("value"):
        case "tensor_type":
            if type_.tensor_type.elem_type in types:
                type_.tensor_type.elem_type = TensorProto.FLOAT
        case "sequence_type":
            _retype(type_.sequence_type.elem_type, types)
        case "optional_type":
            _retype(type_.optional_type.elem_type, types)

"""ONNX graphs as protobuf messages: the graphs within a graph, what nodes read, opsets, and what shape inference reads.

Everything that works on protobufs walks graphs with the functions here. What works on `onnx_ir` (`network.normalise`)
has `onnx_ir.traversal`.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import onnx
from google.protobuf.message import Message  # type: ignore[import-untyped]  # ships no types
from onnx import FunctionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, ValueInfoProto

STANDARD_DOMAINS = ("", "ai.onnx")
"""Two spellings of one: the operators that ONNX defines."""

# Initializers up to this many elements stay in a skeleton: they may hold shapes or scales, which inference reads.
_SHAPE_ELEMENTS = 1024


def subgraphs(node: NodeProto) -> Iterator[GraphProto]:
    """The graphs that are attributes of a node (If, Loop, Scan)."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def graphs(graph: GraphProto) -> Iterator[GraphProto]:
    """`graph` and every graph nested in it. The protobuf parser bounds the depth to about thirty."""
    yield graph
    for node in graph.node:
        for inner in subgraphs(node):
            yield from graphs(inner)


def nodes(holder: GraphProto | FunctionProto) -> Iterator[NodeProto]:
    """All nodes, each before those of the graphs nested in it."""
    for node in holder.node:
        yield node
        for inner in subgraphs(node):
            yield from nodes(inner)


def messages(model: ModelProto) -> Iterator[Message]:
    """Every message in the model, to be known by its type and not by its place, so that no tensor is missed."""
    stack: list[Message] = [model]
    while stack:
        message = stack.pop()
        yield message
        for field, value in message.ListFields():
            if field.type == field.TYPE_MESSAGE:
                stack.extend(value if field.is_repeated else (value,))


def is_external(tensor: TensorProto) -> bool:
    """Whether the tensor has its values outside of the file, or claims to have them in the memory of the process."""
    return bool(tensor.external_data) or tensor.data_location != TensorProto.DEFAULT


def names_read(node: NodeProto) -> Iterator[str]:
    """Every value that a node reads, as often as it does: its inputs, and what its inner graphs take from outside."""
    yield from (name for name in node.input if name)
    for graph in subgraphs(node):
        made = {value.name for value in graph.input} | initializer_names(graph)
        for inner in graph.node:
            yield from (name for name in names_read(inner) if name not in made)
            made.update(inner.output)
        yield from (value.name for value in graph.output if value.name not in made)


def attributes(node: NodeProto) -> dict[str, Any]:
    """The values of a node's attributes by name; text is bytes."""
    return {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}


def label(node: NodeProto) -> str:
    """The name of a node, or of its first output where it has none."""
    return str(node.name or next(filter(None, node.output), ""))


def is_standard(node: NodeProto) -> bool:
    """Whether ONNX defines the operator."""
    return node.domain in STANDARD_DOMAINS


def standard_imports(holder: ModelProto | FunctionProto) -> list[OperatorSetIdProto]:
    """The imports of the standard operator set; a valid model has one."""
    return [entry for entry in holder.opset_import if entry.domain in STANDARD_DOMAINS]


def opset_of(model: ModelProto) -> int:
    """The version of the standard operator set, 0 where the model imports none."""
    return next((int(entry.version) for entry in standard_imports(model)), 0)


def initializer_names(graph: GraphProto) -> set[str]:
    """Of dense and sparse ones."""
    return {tensor.name for tensor in graph.initializer} | {s.values.name for s in graph.sparse_initializer}


def own_inputs(graph: GraphProto) -> list[ValueInfoProto]:
    """What has to be fed: before IR version 4 every initializer was listed as an input too."""
    weights = initializer_names(graph)
    return [value for value in graph.input if value.name not in weights]


def shape_of(value: ValueInfoProto) -> tuple[int | None, ...] | None:
    """The lengths of a tensor's axes, None for each that is not known; None where not even their number is."""
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return None
    return tuple(d.dim_value if d.HasField("dim_value") and d.dim_value >= 0 else None for d in tensor.shape.dim)


def shape_skeleton(model: ModelProto) -> ModelProto:
    """The model as shape inference needs it: large initializers become inputs, stated inner shapes are dropped.

    Inference takes a message of less than two gigabytes, a file can lie about shapes, and a subgraph sees no constants
    from outside, so that it gets copies. The graph's own inputs come first and keep their order.
    """
    skeleton = ModelProto(ir_version=max(model.ir_version, 4))
    skeleton.opset_import.extend(model.opset_import)
    skeleton.functions.extend(model.functions)
    graph, source = skeleton.graph, model.graph
    graph.name = source.name
    graph.node.extend(source.node)
    graph.sparse_initializer.extend(source.sparse_initializer)
    graph.input.extend(own_inputs(source))
    for tensor in source.initializer:
        if _may_be_shape(tensor):
            graph.initializer.append(tensor)
        else:
            shape = list(tensor.dims)
            graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, shape))
    graph.output.extend(source.output)
    _pass_constants_down(graph, {})
    for inner in graphs(graph):
        del inner.value_info[:]
        for output in inner.output:
            if output.type.HasField("tensor_type"):
                output.type.tensor_type.ClearField("shape")
    return skeleton


def without_initializers(model: ModelProto) -> ModelProto:
    """A copy of `model` that lacks the initializers of its main graph, made without copying them."""
    copy = ModelProto()
    copy_fields(model, copy, ("graph",))
    copy_fields(model.graph, copy.graph, ("initializer",))
    return copy


def copy_fields(source: Message, target: Message, left_out: Collection[str]) -> None:
    """Add the fields of `source` to `target`, but for those of these names."""
    for field, value in source.ListFields():
        if field.name in left_out:
            continue
        if isinstance(value, (str, bytes, int, float, bool)):
            setattr(target, field.name, value)
        else:
            getattr(target, field.name).MergeFrom(value)


def _may_be_shape(tensor: TensorProto) -> bool:
    return bool(math.prod(tensor.dims) <= _SHAPE_ELEMENTS)


def _pass_constants_down(graph: GraphProto, outer: Mapping[str, TensorProto]) -> None:
    small = dict(outer) | {tensor.name: tensor for tensor in graph.initializer if _may_be_shape(tensor)}
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.name == "value" and node.output:
                small[node.output[0]] = attribute.t
        for inner in subgraphs(node):
            _pass_constants_down(inner, small)
    own = {tensor.name for tensor in graph.initializer} | {name for node in graph.node for name in node.output}
    for name in sorted({name for node in graph.node for name in node.input} & outer.keys() - own):
        graph.initializer.add().CopyFrom(outer[name])
        graph.initializer[-1].name = name

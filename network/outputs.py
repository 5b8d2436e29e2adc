"""Outputs that no node makes or that are named twice: inputs and initializers passed on.

onnx_ir gives such outputs, or the inputs that they are, other names. So they leave the graph before it is rewritten.
"""

from __future__ import annotations

from dataclasses import dataclass

from onnx import GraphProto, TensorProto, ValueInfoProto, helper

from network.errors import ModelNotTaken
from network.onnx_graph import names_read


@dataclass(frozen=True, slots=True)
class Outputs:
    """The names of a graph's outputs in order, and the initializers among them."""

    names: tuple[str, ...]
    constants: dict[str, TensorProto]


def set_aside(graph: GraphProto) -> Outputs:
    """Leave to `graph` those outputs that nodes make, each once."""
    names = tuple(value.name for value in graph.output)
    constants = {tensor.name: tensor for tensor in graph.initializer if tensor.name in names}
    inputs = {value.name for value in graph.input}
    made: dict[str, ValueInfoProto] = {}
    for value in graph.output:
        if value.name not in inputs | constants.keys():
            made.setdefault(value.name, value)
    kept = [ValueInfoProto.FromString(value.SerializeToString()) for value in made.values()]
    outputs = Outputs(names, {name: _copy(tensor) for name, tensor in constants.items()})
    del graph.output[:]
    graph.output.extend(kept)
    return outputs


def put_back(graph: GraphProto, outputs: Outputs) -> None:
    """Give `graph` all its outputs again, in order.

    Where a layer reads what is an output too, it reads a copy from now on: the output stays as it was uploaded,
    whatever becomes of the weight.

    Raises:
        ModelNotTaken: one is lost.
    """
    for tensor in outputs.constants.values():
        _set_free(graph, tensor.name)
        graph.initializer.append(tensor)
    values = {value.name: value for value in (*graph.input, *graph.output)}
    for name, tensor in outputs.constants.items():
        values[name] = helper.make_tensor_value_info(name, tensor.data_type, list(tensor.dims))
    if lost := [name for name in outputs.names if name not in values]:
        raise ModelNotTaken(f"the output {lost[0]!r} lost its name on the way to a newer opset; export the model again")
    ordered = [ValueInfoProto.FromString(values[name].SerializeToString()) for name in outputs.names]
    del graph.output[:]
    graph.output.extend(ordered)


def _set_free(graph: GraphProto, name: str) -> None:
    """Whatever is called `name` inside of the graph gets another name."""
    names = {tensor.name for tensor in graph.initializer}
    names.update(value for node in graph.node for value in (*node.output, *names_read(node)))
    if name not in names:
        return
    other = f"{name}_inside"
    while other in names:
        other += "_"
    for tensor in graph.initializer:
        if tensor.name == name:
            tensor.name = other
    _rename(graph, name, other)


def _rename(graph: GraphProto, name: str, other: str) -> None:
    for node in graph.node:
        for names in (node.input, node.output):
            for position, old in enumerate(names):
                if old == name:
                    names[position] = other
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                _rename(inner, name, other)
                for value in inner.output:
                    if value.name == name:
                        value.name = other


def _copy(tensor: TensorProto) -> TensorProto:
    copy = TensorProto()
    copy.CopyFrom(tensor)
    return copy

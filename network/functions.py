"""Functions that a file defines for itself."""

from __future__ import annotations

from onnx import FunctionProto, GraphProto, ModelProto

from network.onnx_graph import nodes


def state_defaults(model: ModelProto) -> None:
    """Give every call of a function of `model` the attributes that it leaves to the function's defaults, in place.

    onnx's inliner knows no defaults: a node in the function then takes the default of its own operator.
    """
    defaults = {(f.domain, f.name, f.overload): f.attribute_proto for f in model.functions if f.attribute_proto}
    holders: list[GraphProto | FunctionProto] = [model.graph, *model.functions]
    for node in (node for holder in holders for node in nodes(holder)) if defaults else ():
        given = {attribute.name for attribute in node.attribute}
        stated = defaults.get((node.domain, node.op_type, node.overload), ())
        node.attribute.extend(attribute for attribute in stated if attribute.name not in given)

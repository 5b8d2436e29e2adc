"""Functions that a file defines for itself."""

from __future__ import annotations

import onnx
import onnx.inliner
from onnx import FunctionProto, GraphProto, ModelProto

from network.onnx_graph import nodes, standard_imports


def inlined(model: ModelProto, opset: int) -> ModelProto:
    """`model` with the nodes of its functions in place of every call, converted to its opset; it may be changed."""
    if any(entry.version != opset for function in model.functions for entry in standard_imports(function)):
        model = onnx.shape_inference.infer_shapes(model)  # the version converter needs to know the types
    imports = [entry for function in model.functions for entry in function.opset_import]
    state_defaults(model)
    model = onnx.inliner.inline_local_functions(model, convert_version=True)
    known = {entry.domain for entry in model.opset_import}
    model.opset_import.extend(entry for entry in imports if entry.domain not in known)
    return model


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

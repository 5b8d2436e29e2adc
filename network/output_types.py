"""The types of outputs that a file leaves out: inferred, or as ONNX Runtime finds them."""

from __future__ import annotations

import re
from collections.abc import Mapping

import onnx
from onnx import ModelProto, TypeProto, ValueInfoProto

from network.onnx_graph import shape_skeleton
from network.runtime import runtime_errors, session_of

_TENSOR = re.compile(r"tensor\((\w+)\)")
_ELEMENTS = {"float": "FLOAT", "double": "DOUBLE"}  # where ONNX Runtime has other names than ONNX in small letters


def declare_outputs(model: ModelProto) -> None:
    """Complete the types of the outputs of a checked `model`, in place; a shape that nothing knows stays open.

    Raises:
        ModelNotRunnable: an element type is known to ONNX Runtime alone, which does not load the model.
    """
    missing = [value for value in model.graph.output if not _is_complete(value)]
    if not missing:
        return
    inferred = onnx.shape_inference.infer_shapes(shape_skeleton(model), data_prop=True).graph
    types: Mapping[str, TypeProto] = {
        value.name: value.type for value in (*inferred.input, *inferred.value_info, *inferred.output)
    }
    for value in missing:
        if value.name in types:
            _complete(value, types[value.name])
    if any(not value.type.WhichOneof("value") or _lacks_element(value) for value in missing):
        types = _of_runtime(model)
        for value in missing:
            if value.name in types:
                _complete(value, types[value.name])


def _lacks_element(value: ValueInfoProto) -> bool:
    return value.type.WhichOneof("value") == "tensor_type" and not value.type.tensor_type.elem_type


def _is_complete(value: ValueInfoProto) -> bool:
    kind = value.type.WhichOneof("value")
    if kind != "tensor_type":
        return kind is not None
    return not _lacks_element(value) and value.type.tensor_type.HasField("shape")


def _complete(value: ValueInfoProto, inferred: TypeProto) -> None:
    """What `value` leaves out, of the type `inferred`."""
    if not value.type.WhichOneof("value"):
        value.type.CopyFrom(inferred)
        return
    own, other = value.type.tensor_type, inferred.tensor_type
    own.elem_type = own.elem_type or other.elem_type
    if not own.HasField("shape") and other.HasField("shape"):
        own.shape.CopyFrom(other.shape)


def _of_runtime(model: ModelProto) -> Mapping[str, TypeProto]:
    """The element types of outputs that are tensors; of shapes ONNX Runtime does not say which are not known."""
    with runtime_errors("load"):
        outputs = session_of(model, 1, optimised=False).get_outputs()
    types: dict[str, TypeProto] = {}
    for value in outputs:
        if match := _TENSOR.fullmatch(value.type):
            element = _ELEMENTS.get(match[1], match[1].upper())
            types[value.name] = onnx.helper.make_tensor_type_proto(onnx.TensorProto.DataType.Value(element), None)
    return types

"""Shapes of the values of a network for one sample, by inference."""

from __future__ import annotations

import math

import onnx

_LARGEST_ARGUMENT = 64  # elements of what may be the scales of a Resize, or such


def float_shapes(proto: onnx.ModelProto) -> tuple[dict[str, tuple[int, ...]], set[str]]:
    """The known shapes of float32 values when a free batch axis is 1, and the names of all float32 values."""
    single = without_weights(proto)
    for value in single.graph.input:
        dims = value.type.tensor_type.shape.dim
        if dims and not dims[0].HasField("dim_value"):
            dims[0].dim_value = 1
    for value in single.graph.output:
        value.type.tensor_type.ClearField("shape")
    for node in single.graph.node:
        # onnx infers nothing for it, nor then for what reads it; it keeps type and shape
        if node.op_type == "GroupNormalization" and node.domain in ("", "ai.onnx"):
            node.CopyFrom(onnx.helper.make_node("Identity", node.input[:1], node.output))
    inferred = onnx.shape_inference.infer_shapes(single, data_prop=True).graph
    shapes: dict[str, tuple[int, ...]] = {}
    floats: set[str] = set()
    for value in (*inferred.input, *inferred.value_info, *inferred.output):
        if value.type.tensor_type.elem_type != onnx.TensorProto.FLOAT:
            continue
        floats.add(value.name)
        dims = value.type.tensor_type.shape.dim
        if value.type.tensor_type.HasField("shape") and all(dim.HasField("dim_value") for dim in dims):
            shapes[value.name] = tuple(dim.dim_value for dim in dims)
    return shapes, floats


def without_weights(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A copy without inferred shapes, and without the values of weights: inference needs those of shapes and scales
    only, and takes a message of less than two gigabytes."""
    copy = onnx.ModelProto(ir_version=proto.ir_version, opset_import=proto.opset_import, functions=proto.functions)
    graph, source = copy.graph, proto.graph
    graph.name = source.name
    graph.node.extend(source.node)
    graph.input.extend(source.input)
    graph.output.extend(source.output)
    graph.sparse_initializer.extend(source.sparse_initializer)
    for tensor in source.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT and math.prod(tensor.dims) > _LARGEST_ARGUMENT:
            graph.initializer.add(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
        else:
            graph.initializer.append(tensor)
    return copy

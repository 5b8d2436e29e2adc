"""Shapes of the values of a network for one sample, by inference."""

from __future__ import annotations

import onnx

from network.onnx_graph import initializer_names, is_standard, own_inputs, shape_of, shape_skeleton


def float_shapes(proto: onnx.ModelProto) -> tuple[dict[str, tuple[int, ...]], set[str]]:
    """The known shapes of float32 values when a free batch axis is 1, and the names of all float32 values."""
    single = shape_skeleton(proto)
    for value in single.graph.input[: len(own_inputs(proto.graph))]:
        dims = value.type.tensor_type.shape.dim
        if dims and not dims[0].HasField("dim_value"):
            dims[0].dim_value = 1
    for node in single.graph.node:
        # onnx infers nothing for it, nor then for what reads it; it keeps type and shape
        if node.op_type == "GroupNormalization" and is_standard(node):
            node.CopyFrom(onnx.helper.make_node("Identity", node.input[:1], node.output))
    inferred = onnx.shape_inference.infer_shapes(single, data_prop=True).graph
    shapes: dict[str, tuple[int, ...]] = {}
    floats: set[str] = set()
    weights = initializer_names(proto.graph)
    for value in (*inferred.input, *inferred.value_info, *inferred.output):
        if value.type.tensor_type.elem_type != onnx.TensorProto.FLOAT or value.name in weights:
            continue
        floats.add(value.name)
        shape = shape_of(value)
        known = tuple(length for length in shape or () if length is not None)
        if shape is not None and len(known) == len(shape):
            shapes[value.name] = known
    return shapes, floats

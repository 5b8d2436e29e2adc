"""Float bytes in a delivered file that its plan does not tell."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import onnx
from onnx import AttributeProto, TensorProto

SIZES = {TensorProto.FLOAT: 4, TensorProto.DOUBLE: 8, TensorProto.FLOAT16: 2, TensorProto.BFLOAT16: 2}
FLOAT_FORMATS = ("float16", "float32")
ALLOWED = 256
"""Bytes of constants that belong to the file's own functions and to its arithmetic."""


def untold_bytes(model: bytes, plan: Mapping[str, Any]) -> int:
    """Bytes of float constants beyond scales, layers that the plan keeps in floats, and `stays_float`."""
    held = sum(float_bytes(onnx.load_model_from_string(model)))
    told = plan["stays_float"]["bytes"] + plan["audit"]["scales_bytes"]
    told += sum(row["bytes"] for row in plan["layers"] if row["format"] in FLOAT_FORMATS)
    return max(0, held - told - ALLOWED)


def float_bytes(model: onnx.ModelProto) -> Iterator[int]:
    """The size of every float constant, in the graph, in the bodies inside it and in functions."""
    yield from _of_graph(model.graph)
    for function in model.functions:
        for node in function.node:
            yield from _of_node(node)


def _of_graph(graph: onnx.GraphProto) -> Iterator[int]:
    for tensor in (*graph.initializer, *(sparse.values for sparse in graph.sparse_initializer)):
        yield _size(tensor)
    for node in graph.node:
        yield from _of_node(node)


def _of_node(node: onnx.NodeProto) -> Iterator[int]:
    for attribute in node.attribute:
        match attribute.type:
            case AttributeProto.GRAPH:
                yield from _of_graph(attribute.g)
            case AttributeProto.TENSOR:
                yield _size(attribute.t)
            case AttributeProto.SPARSE_TENSOR:
                yield _size(attribute.sparse_tensor.values)
            case AttributeProto.FLOATS:
                yield 4 * len(attribute.floats)


def _size(tensor: TensorProto) -> int:
    return math.prod(tensor.dims) * SIZES.get(tensor.data_type, 0)

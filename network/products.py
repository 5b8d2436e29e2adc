"""How much a network multiplies at least, from its inferred shapes: nothing is run.

Counted are matrix products and convolutions whose shapes are known, the body of a loop once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from onnx import GraphProto, NodeProto

from network.onnx_graph import attributes, graphs, is_standard, nodes, shape_of

_Shapes = Mapping[str, Sequence[int]]


def least_macs(graph: GraphProto, inferred: GraphProto) -> int:
    """Multiply-accumulates of the products in `graph`, at any depth.

    Args:
        inferred: the same graph with the shapes of its values.
    """
    shapes: dict[str, Sequence[int]] = {}
    for inner in graphs(inferred):
        for value in (*inner.input, *inner.value_info, *inner.output):
            lengths = shape_of(value)
            if lengths is not None and None not in lengths:
                shapes[value.name] = [length or 0 for length in lengths]
    for inner in graphs(graph):
        shapes.update((tensor.name, tensor.dims) for tensor in inner.initializer)
    return sum(_macs(node, shapes) for node in nodes(graph) if is_standard(node))


def _macs(node: NodeProto, shapes: _Shapes) -> int:
    if node.op_type not in ("Conv", "ConvTranspose", "Gemm", "MatMul") or len(node.input) < 2 or not node.output:
        return 0
    left, right, out = (shapes.get(name) for name in (*node.input[:2], node.output[0]))
    if not left or not right or out is None:
        return 0
    if node.op_type == "ConvTranspose":
        return math.prod(left) * math.prod(right[1:])
    if node.op_type == "Conv":
        return math.prod(out) * math.prod(right[1:])
    summed = left[0] if node.op_type == "Gemm" and attributes(node).get("transA", 0) else left[-1]
    return math.prod(out) * summed

"""Which integers of a graph only stand for floats, so that gradients may pass through them."""

from __future__ import annotations

from collections.abc import Iterable

from onnx import GraphProto, NodeProto

from network.finite import FLOAT_TYPES
from network.onnx_graph import attributes, names_read

MAKERS = frozenset({"QuantizeLinear", "DynamicQuantizeLinear"}) | {
    "ConvInteger",
    "MatMulInteger",
    "QLinearConv",
    "QLinearMatMul",
}
"""Operators whose first output are codes, or sums of products of them."""

READERS = (MAKERS - {"QuantizeLinear", "DynamicQuantizeLinear"}) | {"DequantizeLinear"}
"""Operators that read codes."""

_MOVERS = frozenset(
    {"Concat", "DepthToSpace", "Expand", "Flatten", "Gather", "Identity", "MaxPool", "Pad", "Reshape", "Slice"}
    | {"SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze"}
)


def codes_read_otherwise(graph: GraphProto, outputs: Iterable[str]) -> set[str]:
    """The values that the graph returns, or that something reads for more than the floats that they stand for.

    Of codes that are moved only, it counts what reads them where they have come to.
    """
    otherwise = set(outputs)
    for node in reversed(graph.node):
        if not _reads_floats(node, otherwise):
            otherwise.update(names_read(node))
    return otherwise


def _reads_floats(node: NodeProto, otherwise: set[str]) -> bool:
    if node.op_type in READERS:
        return True
    if node.op_type == "Cast":
        return attributes(node).get("to") in FLOAT_TYPES
    return node.op_type in _MOVERS and not otherwise.intersection(node.output)

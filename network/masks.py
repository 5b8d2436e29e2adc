"""Values that mean "not this one": they have to stay float, because their size says nothing.

A mask adds a huge negative number to scores, or puts an infinity in their place; a Softmax then gives those a share of
zero. A scale that reaches from such a number to the scores leaves one code for all scores. Other networks let a row of
masked scores become NaN, and look for it with IsNaN: codes are never NaN.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, numpy_helper

from network.finite import FLOAT_TYPES, is_finite
from network.onnx_graph import is_standard

LARGE = -1e3
"""What no score reaches: a constant of that or less is a mask (-1e4, -65504, -1e9, the lowest float32, -inf)."""

_ENDS = frozenset({"LogSoftmax", "Softmax"})
_LAYERS = frozenset({"Conv", "ConvTranspose", "Einsum", "GRU", "Gemm", "LSTM", "MatMul", "RNN"})
_MOVERS = frozenset(
    {"Cast", "Concat", "Expand", "Flatten", "Gather", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Tile"}
    | {"Transpose", "Unsqueeze"}
)
_JOINS = frozenset({"Add", "Sub", "Where"})
_THROUGH = _MOVERS | _JOINS | {"Clip", "Div", "Max", "Min", "Mul"}
_LOOKS_FOR = frozenset({"IsInf", "IsNaN"})


def masked_values(
    nodes: Collection[NodeProto], constants: Mapping[str, TensorProto], dependent: Collection[str]
) -> set[str]:
    """The names of values that hold masks, or NaN that the network looks for.

    Args:
        nodes: of a graph, in topological order.
        constants: its initializers.
        dependent: the values that depend on the graph's inputs.
    """
    return _on_the_way_to_softmax(nodes, constants, dependent) | _looked_through(nodes, constants)


def _on_the_way_to_softmax(
    nodes: Collection[NodeProto], constants: Mapping[str, TensorProto], dependent: Collection[str]
) -> set[str]:
    """What a huge negative constant, or something that no layer has made from the inputs, is joined with on the way to
    a Softmax."""
    scores = _before(nodes, _ENDS, _THROUGH)
    masks = {name for name, tensor in constants.items() if name in scores and _is_mask(tensor)}
    layered: set[str] = set()
    made: set[str] = set()
    for node in nodes:
        if node.op_type in _LAYERS or not is_standard(node) or layered.intersection(node.input):
            layered.update(node.output)
        if node.op_type not in _THROUGH or not scores.intersection(node.output):
            continue
        joined = _data(node)
        given = {name for name in joined if name in dependent and name not in layered}
        is_joined = node.op_type in _JOINS and given and layered.intersection(joined)
        if masks.intersection(joined) or is_joined:
            masks.update(node.output)
            made.update(node.output)
    return made


def _looked_through(nodes: Collection[NodeProto], constants: Mapping[str, TensorProto]) -> set[str]:
    """What lies between a constant that is not finite and the IsNaN or IsInf that looks for what becomes of it, and
    what these look at themselves."""
    looked_at = _before(nodes, _LOOKS_FOR, None)
    if not looked_at:
        return set()
    floats = {name: tensor for name, tensor in constants.items() if tensor.data_type in FLOAT_TYPES}
    spread = {name for name, tensor in floats.items() if name in looked_at and not is_finite(tensor)}
    for node in nodes:
        if spread.intersection(node.input):
            spread.update(node.output)
    return (looked_at & spread - constants.keys()) | _before(nodes, _LOOKS_FOR, _MOVERS)


def _before(nodes: Collection[NodeProto], ends: Collection[str], through: Collection[str] | None) -> set[str]:
    """What the operators `ends` read, by way of operators in `through`; of any where that is None."""
    names: set[str] = set()
    for node in reversed(list(nodes)):
        is_end = node.op_type in ends and is_standard(node)
        if is_end or (names.intersection(node.output) and (through is None or node.op_type in through)):
            names.update(_data(node))
    return names - {""}


def _data(node: NodeProto) -> Sequence[str]:
    """What a node chooses or computes from, without the condition."""
    return list(node.input)[1 if node.op_type == "Where" else 0 :]


def _is_mask(tensor: TensorProto) -> bool:
    if tensor.data_type not in FLOAT_TYPES:
        return False
    values = numpy_helper.to_array(tensor)
    return bool(values.size and np.fmin.reduce(values, axis=None) <= LARGE)


def chooses(values: NDArray[Any]) -> bool:
    """Whether finite values say no more than which of others count: huge negative ones among them, or two values in
    all, like 0 and 1."""
    lowest, highest = values.min(initial=np.inf), values.max(initial=-np.inf)
    return bool(lowest <= LARGE or ((values == lowest) | (values == highest)).all())

"""Tables of matrices, from which Gather picks one for each sample: what multiplies the matrix that was picked.

A mixture of experts keeps them in one table `[experts, inputs, outputs]`, or `[experts, outputs, inputs]`. Which of the
last two axes is summed over says the product behind the Gather.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx

from network.einsum import NotAnEquation, parse
from network.onnx_graph import attributes, is_standard

_MOST_FOLLOWED = 8
_MOVING = ("Reshape", "Squeeze", "Unsqueeze")


@dataclass(frozen=True, slots=True)
class TableProduct:
    """The product of picked matrices with `operand`: it sums over `reduced_axis` of the table and `operand_axis` of the
    operand, both counted from the end; `output` is what it makes."""

    operand: str
    operand_axis: int
    reduced_axis: int
    output: str


def table_product(
    gather: onnx.NodeProto,
    table: Sequence[int],
    readers: Mapping[str, Sequence[onnx.NodeProto]],
    shapes: Mapping[str, tuple[int, ...]],
) -> TableProduct | None:
    """What multiplies the matrices along the last two axes of a table; None where nothing that is followed does.

    Args:
        gather: the node that picks.
        table: its shape.
        readers: the nodes that read a value.
        shapes: of values, as far as they are known.
    """
    if len(table) < 3 or attributes(gather).get("axis", 0) % len(table) >= len(table) - 2:
        return None
    value, turned = gather.output[0], False
    for _ in range(_MOST_FOLLOWED):
        nodes = readers.get(value, ())
        if len(nodes) != 1 or not is_standard(nodes[0]) or list(nodes[0].input).count(value) != 1:
            return None
        node = nodes[0]
        if node.op_type in ("MatMul", "Einsum"):
            return _product(node, value, turned)
        turn = _turns(node, value, shapes)
        if turn is None:
            return None
        turned ^= turn
        value = node.output[0]
    return None


def _product(node: onnx.NodeProto, value: str, turned: bool) -> TableProduct | None:
    axes = (_matmul_axes if node.op_type == "MatMul" else _einsum_axes)(node, value)
    if axes is None:
        return None
    summed, operand_axis = axes
    operand = next(name for name in node.input if name != value)
    return TableProduct(operand, operand_axis, -3 - summed if turned else summed, node.output[0])


def _matmul_axes(node: onnx.NodeProto, value: str) -> tuple[int, int] | None:
    """The axes, counted from the end, of the matrices and of the other operand that the node sums over."""
    return (-2, -1) if node.input[1] == value else (-1, -2)


def _einsum_axes(node: onnx.NodeProto, value: str) -> tuple[int, int] | None:
    """The same; None where not exactly one of the last two labels is summed over."""
    equation = parse(attributes(node).get("equation", b"").decode(errors="replace"))
    if isinstance(equation, NotAnEquation) or not len(equation.operands) == len(node.input) == 2:
        return None
    place = list(node.input).index(value)
    own, other = equation.operands[place], equation.operands[1 - place]
    summed = [axis for axis in (-1, -2) if len(own) > 2 and own[axis] in other and own[axis] not in equation.output]
    if len(summed) != 1 or "." in own[-2:] or own[-3 - summed[0]] not in equation.output:
        return None
    axis = other.index(own[summed[0]])
    return None if "." in other[axis:] else (summed[0], axis - len(other))


def _turns(node: onnx.NodeProto, value: str, shapes: Mapping[str, tuple[int, ...]]) -> bool | None:
    """Whether what only moves a value exchanges its last two axes; None where it does something else with them."""
    match node.op_type:
        case "Cast" | "Identity":
            return False
        case "Transpose":
            perm = attributes(node).get("perm", [])
            last = [axis - len(perm) for axis in perm[-2:]]
            return None if sorted(last) != [-2, -1] else last == [-1, -2]
    if node.op_type in _MOVING and node.input[0] == value:
        before, after = shapes.get(value, ()), shapes.get(node.output[0], ())
        if len(before) >= 2 and before[-2:] == after[-2:]:
            return False
    return None

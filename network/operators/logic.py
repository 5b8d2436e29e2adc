"""Comparisons, truth values, bits, and the choice between two tensors."""

from __future__ import annotations

import torch
from torch import Tensor

from network.operators.node import Node
from network.operators.registry import operator


@operator("Equal", since=7)
def equal(_: Node, a: Tensor, b: Tensor) -> Tensor:
    return a == b


@operator("Greater", since=7)
def greater(_: Node, a: Tensor, b: Tensor) -> Tensor:
    return a > b


@operator("GreaterOrEqual", since=12)
def greater_or_equal(_: Node, a: Tensor, b: Tensor) -> Tensor:
    return a >= b


@operator("Less", since=7)
def less(_: Node, a: Tensor, b: Tensor) -> Tensor:
    return a < b


@operator("LessOrEqual", since=12)
def less_or_equal(_: Node, a: Tensor, b: Tensor) -> Tensor:
    return a <= b


@operator("And", since=7)
def logical_and(_: Node, a: Tensor, b: Tensor) -> Tensor:
    return torch.logical_and(a, b)


@operator("Or", since=7)
def logical_or(_: Node, a: Tensor, b: Tensor) -> Tensor:
    return torch.logical_or(a, b)


@operator("Xor", since=7)
def logical_xor(_: Node, a: Tensor, b: Tensor) -> Tensor:
    return torch.logical_xor(a, b)


@operator("Not")
def logical_not(_: Node, x: Tensor) -> Tensor:
    return torch.logical_not(x)


@operator("IsNaN", since=9)
def is_nan(_: Node, x: Tensor) -> Tensor:
    return torch.isnan(x)


@operator("IsInf", since=10)
def is_inf(node: Node, x: Tensor) -> Tensor:
    """Where x is infinite, of the signs that `detect_negative` and `detect_positive` ask for."""
    infinite = torch.isinf(x)
    if not node.get("detect_negative", 1):
        infinite = infinite & (x > 0)
    if not node.get("detect_positive", 1):
        infinite = infinite & (x < 0)
    return infinite


@operator("Where", since=9)
def where(_: Node, condition: Tensor, x: Tensor, y: Tensor) -> Tensor:
    return torch.where(condition, x, y)


@operator("BitwiseAnd", since=18)
def bitwise_and(_: Node, a: Tensor, b: Tensor) -> Tensor:
    return a & b


@operator("BitwiseOr", since=18)
def bitwise_or(_: Node, a: Tensor, b: Tensor) -> Tensor:
    return a | b


@operator("BitwiseXor", since=18)
def bitwise_xor(_: Node, a: Tensor, b: Tensor) -> Tensor:
    return a ^ b


@operator("BitwiseNot", since=18)
def bitwise_not(_: Node, x: Tensor) -> Tensor:
    return ~x


@operator("BitShift", since=11)
def bit_shift(node: Node, x: Tensor, bits: Tensor) -> Tensor:
    """x shifted by `bits` in `direction`."""
    return x << bits if node.get("direction") == "LEFT" else x >> bits

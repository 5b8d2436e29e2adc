"""Arithmetic of tensors, broadcast as in numpy, with attributes or of any number of tensors; and Clip."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from network.operators.node import Node
from network.operators.registry import operator
from network.operators.unsigned import through_int64


@operator("Div", since=7)
@through_int64
def div(_: Node, a: Tensor, b: Tensor) -> Tensor:
    """a / b; of integers the quotient rounded towards zero, as in C."""
    return a / b if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")


@operator("Mod", since=10)
@through_int64
def mod(node: Node, a: Tensor, b: Tensor) -> Tensor:
    """The remainder, with the sign of the divisor, or of the dividend with `fmod`."""
    return torch.fmod(a, b) if node.get("fmod", 0) else torch.remainder(a, b)


@operator("Pow", since=7)
@through_int64
def power(_: Node, base: Tensor, exponent: Tensor) -> Tensor:
    """base ** exponent in the type of the base."""
    if not base.is_floating_point() and exponent.is_floating_point():
        return torch.pow(base.to(exponent.dtype), exponent).to(base.dtype)
    return torch.pow(base, _number(exponent, base)).to(base.dtype)


@operator("Min", since=8)
@through_int64
def minimum(_: Node, *tensors: Tensor) -> Tensor:
    return functools.reduce(torch.minimum, tensors)


@operator("Max", since=8)
@through_int64
def maximum(_: Node, *tensors: Tensor) -> Tensor:
    return functools.reduce(torch.maximum, tensors)


@operator("Sum", since=8)
@through_int64
def total(_: Node, *tensors: Tensor) -> Tensor:
    return functools.reduce(torch.add, tensors)


@operator("Mean", since=8)
def mean(_: Node, *tensors: Tensor) -> Tensor:
    return functools.reduce(torch.add, tensors) / len(tensors)


@operator("Clip", since=6)
@through_int64
def clip(node: Node, x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    """min(max(x, low), high); before opset 11 the bounds are attributes."""
    lower: Tensor | float | None = node.get("min") if low is None else _number(low, x)
    upper: Tensor | float | None = node.get("max") if high is None else _number(high, x)
    if isinstance(lower, Tensor) or isinstance(upper, Tensor):  # torch takes two tensors or two numbers
        return torch.clamp(x, low, high)
    return x if lower is None and upper is None else torch.clamp(x, lower, upper)


@operator("IsInf", since=10)
def is_inf(node: Node, x: Tensor) -> Tensor:
    """Where x is infinite, of the signs that `detect_negative` and `detect_positive` ask for."""
    infinite = torch.isinf(x)
    if not node.get("detect_negative", 1):
        infinite = infinite & (x > 0)
    if not node.get("detect_positive", 1):
        infinite = infinite & (x < 0)
    return infinite


@operator("BitShift", since=11)
@through_int64
def bit_shift(node: Node, x: Tensor, bits: Tensor) -> Tensor:
    """x shifted by `bits` in `direction`."""
    return x << bits if node.get("direction") == "LEFT" else x >> bits


def _number(operand: Tensor, x: Tensor) -> Tensor | int | float:
    """`operand` as a Python number where that is free and loses nothing, else itself.

    torch's kernels for a number are several times faster than those for a tensor of one element (x ** 2). Reading
    a number from another device would wait for it, and a gradient in the operand needs the tensor.
    """
    if operand.numel() != 1 or operand.dim() > x.dim() or operand.requires_grad or operand.device.type != "cpu":
        return operand
    number: int | float = operand.item()
    return number

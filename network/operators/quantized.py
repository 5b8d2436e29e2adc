"""Operators that round to codes, and that calculate with codes.

Where a gradient passes (`Node.codes_pass_gradients`) codes are floats that hold integers: rounding is passed straight
through, as if it changed nothing (Bengio et al. 2013, arXiv 1308.3432). Elsewhere they have their own type.
"""

from __future__ import annotations

import torch
from torch import Tensor

from network.operators.convolution import conv
from network.operators.node import Node
from network.operators.registry import operator

_ACCUMULATOR = torch.float64
"""Holds every sum of products of 8-bit codes exactly."""


@operator("QuantizeLinear", since=10)
def quantize_linear(node: Node, x: Tensor, scale: Tensor, zero_point: Tensor | None = None) -> Tensor:
    """round(x / scale) + zero point, in the range of the type; one scale for all, for an index or a block of `axis`."""
    dtype = node.dtype_or("output_dtype", torch.uint8) if zero_point is None else zero_point.dtype
    return _rounded(node, x / _along(node, scale, x), _zero(node, zero_point, x), dtype)


@operator("DequantizeLinear", since=10)
def dequantize_linear(node: Node, codes: Tensor, scale: Tensor, zero_point: Tensor | None = None) -> Tensor:
    """(codes - zero point) * scale."""
    values = codes.to(scale.dtype)
    return (values - _zero(node, zero_point, values)) * _along(node, scale, values)


@operator("DynamicQuantizeLinear", since=11)
def dynamic_quantize_linear(node: Node, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Codes of 8 bits, their scale and zero point, so that 0 and all of x lie in their range."""
    low, high = x.min().clamp(max=0.0), x.max().clamp(min=0.0)
    span = (high - low) / 255
    scale = torch.where(span == 0, torch.ones_like(span), span)
    zero_point = (-low.detach() / scale.detach()).round().clamp(0, 255)
    codes = _rounded(node, x / scale, zero_point, torch.uint8)
    return codes, scale, zero_point.to(torch.uint8)


@operator("MatMulInteger", since=10)
def matmul_integer(
    node: Node, a: Tensor, b: Tensor, a_zero: Tensor | None = None, b_zero: Tensor | None = None
) -> Tensor:
    """The product of codes without their zero points, of which a may have one a row and b one a column."""
    return _accumulated(node, _rows(a, a_zero) @ _columns(b, b_zero))


@operator("ConvInteger", since=10)
def conv_integer(
    node: Node, x: Tensor, weight: Tensor, x_zero: Tensor | None = None, w_zero: Tensor | None = None
) -> Tensor:
    """The convolution of codes without their zero points, of which the weight may have one an output channel."""
    return _accumulated(node, conv(node, _columns(x, x_zero), _channels(weight, w_zero)))


@operator("QLinearMatMul", since=10)
def qlinear_matmul(
    node: Node,
    a: Tensor,
    a_scale: Tensor,
    a_zero: Tensor,
    b: Tensor,
    b_scale: Tensor,
    b_zero: Tensor,
    y_scale: Tensor,
    y_zero: Tensor,
) -> Tensor:
    """The product of what two matrices of codes stand for, as codes."""
    scale = (a_scale.unsqueeze(-1) if a_scale.dim() == 1 else a_scale) * b_scale / y_scale
    product = _rows(a, a_zero) @ _columns(b, b_zero)
    return _rounded(node, product.to(node.float_dtype) * scale, y_zero.to(node.float_dtype), y_zero.dtype)


@operator("QLinearConv", since=10)
def qlinear_conv(
    node: Node,
    x: Tensor,
    x_scale: Tensor,
    x_zero: Tensor,
    weight: Tensor,
    w_scale: Tensor,
    w_zero: Tensor,
    y_scale: Tensor,
    y_zero: Tensor,
    bias: Tensor | None = None,
) -> Tensor:
    """The convolution of what codes stand for, as codes; the bias is in units of the two scales."""
    total = conv(node, _columns(x, x_zero), _channels(weight, w_zero), None if bias is None else bias.to(_ACCUMULATOR))
    scale = (x_scale * w_scale / y_scale).reshape(-1, *(1,) * (x.dim() - 2))
    return _rounded(node, total.to(node.float_dtype) * scale, y_zero.to(node.float_dtype), y_zero.dtype)


def _rounded(node: Node, scaled: Tensor, zero_point: Tensor, dtype: torch.dtype) -> Tensor:
    """The codes of `dtype` nearest to `scaled`, from the zero point; halves to even."""
    rounded = scaled + (scaled.round() - scaled).detach() if node.codes_pass_gradients else scaled.round()
    limits = torch.iinfo(dtype)
    codes = (rounded + zero_point).clamp(limits.min, limits.max)
    return codes if node.codes_pass_gradients else codes.to(dtype)


def _accumulated(node: Node, total: Tensor) -> Tensor:
    return total.to(node.float_dtype if node.codes_pass_gradients else torch.int32)


def _along(node: Node, parameter: Tensor, x: Tensor) -> Tensor:
    """A scale or zero point as it meets x: one, one an index of `axis`, or one a block along it."""
    if parameter.numel() == 1:
        return parameter.reshape(())
    axis = node.get("axis", 1) % x.dim()
    block: int = node.get("block_size", 0)
    if block:
        return parameter.repeat_interleave(block, axis).narrow(axis, 0, x.shape[axis])
    return parameter.reshape(-1, *(1,) * (x.dim() - 1 - axis))


def _zero(node: Node, zero_point: Tensor | None, x: Tensor) -> Tensor:
    return x.new_zeros(()) if zero_point is None else _along(node, zero_point.to(x.dtype), x)


def _columns(codes: Tensor, zero_point: Tensor | None) -> Tensor:
    return codes.to(_ACCUMULATOR) if zero_point is None else codes.to(_ACCUMULATOR) - zero_point.to(_ACCUMULATOR)


def _rows(codes: Tensor, zero_point: Tensor | None) -> Tensor:
    one_a_row = zero_point is not None and zero_point.dim() == 1
    return _columns(codes, zero_point.unsqueeze(-1) if zero_point is not None and one_a_row else zero_point)


def _channels(weight: Tensor, zero_point: Tensor | None) -> Tensor:
    return _columns(weight, None if zero_point is None else zero_point.reshape(-1, *(1,) * (weight.dim() - 1)))

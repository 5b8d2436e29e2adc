"""Biases as int32 codes.

An integer kernel adds its bias before it scales, so that its codes count the scale of the input x the scale of the
weight. Where those are tiny (a channel of weights near zero) the codes would not fit, and where a channel holds only
zeros its scale is arbitrary: `fit` chooses the weight's scale so that the bias survives.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from quantization.storage.weights import Floats, IntegerWeight

# The sum of products adds to the code: 2**30 leaves it room for 32,768 products of 8-bit codes.
LARGEST_CODE = 1 << 30
_CODE_OF_A_DEAD_CHANNEL = 1 << 20
_FLOAT_DIGITS = 24
_SMALLEST = 2.0**-100  # below it the scale of an exact code would leave float32


def exact_codes(values: Floats) -> tuple[NDArray[np.int32], Floats]:
    """int32 codes and powers of two with `code * scale == values`, exactly, but that numbers below 1e-30 become 0."""
    mantissa, exponent = np.frexp(np.where(np.abs(values) < _SMALLEST, np.float32(0), values))
    codes = np.ldexp(mantissa, _FLOAT_DIGITS).astype(np.int32)
    return codes, np.ldexp(np.float32(1), np.where(codes == 0, 0, exponent - _FLOAT_DIGITS)).astype(np.float32)


def kernel_codes(bias: Floats, input_scale: float, weight: IntegerWeight) -> NDArray[np.int32]:
    """`bias` `[channels]` in units of input scale x weight scale, the product that the kernel takes, in float32."""
    codes = np.rint(bias / kernel_scale(input_scale, weight).astype(np.float64))
    return codes.clip(-LARGEST_CODE, LARGEST_CODE).astype(np.int32)


def kernel_scale(input_scale: float, weight: IntegerWeight) -> Floats:
    """What a code of the bias stands for: `[channels]`, or `()` where the weight has one scale."""
    scale = weight.scale.reshape(-1) if weight.scale.ndim else weight.scale
    return np.asarray(np.float32(input_scale) * scale)


def fit(weight: IntegerWeight, biases: Sequence[tuple[Floats, float]]) -> IntegerWeight:
    """`weight` with scales that the codes of all `biases` fit; itself, where they do already.

    A channel whose bias is more than 2**30 steps has its scale doubled and its codes halved until it fits: what the
    rounding takes from it is then below 1/8 step of an 8-bit output that spans the bias. A channel of zeros takes a
    scale of about a millionth of its bias.

    Args:
        biases: `[channels]`, and the scale of the layer's input, for each layer that uses the weight.
    """
    if not biases:
        return weight
    axes = tuple(axis for axis, length in enumerate(weight.scale.shape) if length == 1) if weight.scale.ndim else None
    dead = ~weight.codes.any(axis=axes, keepdims=weight.scale.ndim > 0)
    needed = np.max([np.abs(bias).astype(np.float64) / input_scale for bias, input_scale in biases], axis=0)
    needed = needed.reshape(weight.scale.shape) if weight.scale.ndim else needed.max()
    doubled = np.ceil(np.log2(np.maximum(needed / (LARGEST_CODE * np.abs(weight.scale.astype(np.float64))), 1)))
    factor = np.where(dead, 1, np.exp2(doubled))
    tiny = float(np.finfo(np.float32).tiny)
    scale = np.where(dead & (needed > 0), np.maximum(needed / _CODE_OF_A_DEAD_CHANNEL, tiny), weight.scale * factor)
    if (scale == weight.scale).all():
        return weight
    codes = np.rint(weight.codes / factor).astype(np.int8)
    return IntegerWeight(weight.format, codes, scale.astype(np.float32).reshape(weight.scale.shape))

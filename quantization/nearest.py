"""Rounding to the nearest code."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from quantization.affine_ranges import optimal_affine
from quantization.formats import IntegerFormat
from quantization.ranges import optimal_scales
from quantization.weights import IntegerWeight

Floats = NDArray[np.float32]


def round_nearest(weight: Floats, format_: IntegerFormat, channel_axis: int) -> IntegerWeight:
    """`weight` in `format_`, at the scales (and zero points) of least squared error, each element at its nearest code.

    Args:
        weight: finite float32, any shape that divides into the format's blocks.
        channel_axis: axis of the output channels; unused at tensor granularity.

    Raises:
        ValueError: the weight is not finite float32, the axis is not one of its axes, or no blocks fit.
    """
    if format_.symmetric:
        (scale,) = optimal_scales(weight, [format_], channel_axis)
        return round_to_scale(weight, format_, scale)
    scale, zero_point = optimal_affine(weight, format_, channel_axis)
    return round_to_scale(weight, format_, scale, zero_point)


def round_to_scale(
    weight: Floats, format_: IntegerFormat, scale: Floats, zero_point: NDArray[np.int8] | None = None
) -> IntegerWeight:
    """`weight` at its nearest codes for given scales (ties to even; values out of range at the end code)."""
    grouped = weight.reshape(len(scale), -1, scale.shape[2]) if format_.block else weight
    codes = np.rint(grouped / scale)
    if zero_point is not None:
        codes += zero_point
    np.clip(codes, format_.lowest_code, format_.highest_code, out=codes)
    return IntegerWeight(format_, codes.astype(np.int8).reshape(weight.shape), scale, zero_point)

"""Rounding to the nearest code."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from quantization.formats import IntegerFormat
from quantization.ranges import optimal_scales
from quantization.weights import QuantizedWeight


def round_nearest(weight: NDArray[np.float32], format_: IntegerFormat, channel_axis: int) -> QuantizedWeight:
    """`weight` in `format_`, at the scales of least squared error, each element at its nearest code.

    Args:
        weight: finite float32, any shape.
        channel_axis: axis of the output channels; unused at tensor granularity.

    Raises:
        ValueError: the weight is not finite float32, or the axis is not one of its axes.
    """
    (scale,) = optimal_scales(weight, [format_], channel_axis)
    return round_to_scale(weight, format_, scale)


def round_to_scale(weight: NDArray[np.float32], format_: IntegerFormat, scale: NDArray[np.float32]) -> QuantizedWeight:
    """`weight` at its nearest codes for a given `scale` (ties to even; values out of range at the end code)."""
    codes = np.rint(weight / scale)
    np.clip(codes, format_.lowest_code, format_.highest_code, out=codes)
    return QuantizedWeight(format_, codes.astype(np.int8), scale)

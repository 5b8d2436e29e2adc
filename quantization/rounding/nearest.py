"""Rounding to the nearest code."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from quantization.formats import IntegerFormat
from quantization.rounding.affine_ranges import optimal_affine
from quantization.rounding.ranges import largest_scales, optimal_scales
from quantization.rounding.tiles import TILE, Room, on_cores
from quantization.storage.weights import IntegerWeight

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
    grouped = weight.reshape(len(scale), -1, scale.shape[2]) if format_.block else np.atleast_1d(weight)
    codes = np.empty(grouped.shape, dtype=np.int8)

    def visit(part: slice, room: Room) -> None:
        shares = [a[part] if a.ndim and len(a) > 1 else a for a in (scale, zero_point) if a is not None]
        [values] = room.arrays(1, grouped[part].shape)
        np.divide(grouped[part], shares[0], out=values)
        np.rint(values, out=values)
        if zero_point is not None:
            values += shares[1]
        codes[part] = np.clip(values, format_.lowest_code, format_.highest_code, out=values)

    step = max(1, TILE * len(grouped) // max(grouped.size, 1))
    on_cores(visit, [slice(start, start + step) for start in range(0, len(grouped), step)])
    return IntegerWeight(format_, codes.reshape(weight.shape), scale, zero_point)


def round_by_largest(weight: Floats, format_: IntegerFormat, channel_axis: int) -> IntegerWeight:
    """`weight` at its nearest codes, with the largest magnitude of those that share a scale on the lowest code.

    No scale is searched: a third of the time of `round_nearest` for blocks, a tenth for channels. At 4 bits the squared
    error of Gaussian weights is 1.13 times that of the best scale for blocks of 32, 1.4 and 1.6 times for channels of
    1024 and 4096.

    Raises:
        ValueError: as `round_nearest`, or the format is not symmetric.
    """
    if not format_.symmetric:
        raise ValueError(f"{format_.name} needs a zero point, which the largest magnitude does not give")
    scale = largest_scales(weight, format_, channel_axis)
    return round_to_scale(weight, format_, scale)

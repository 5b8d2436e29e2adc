"""Rounding of each value by itself: no other value makes up for its error."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from network.graph import ChannelAxis
from quantization.formats import (
    CodebookFormat,
    CodedFormat,
    HadamardFormat,
    HalfFormat,
    IntegerFormat,
    PowerFormat,
    WeightFormat,
)
from quantization.granularity import facing, scale_shape
from quantization.rounding.affine_ranges import optimal_affine
from quantization.rounding.codebook_tables import LARGEST, codebook
from quantization.rounding.coded_steps import round_coded
from quantization.rounding.power_grids import round_power
from quantization.rounding.ranges import finite_float32, optimal_scales
from quantization.rounding.tiles import TILE, Floats, Room, on_cores, parts
from quantization.storage.halves import HalfWeight
from quantization.storage.parts import storage
from quantization.storage.rotations import HadamardWeight, rotation
from quantization.storage.weights import IntegerWeight, QuantizedWeight


def round_nearest(weight: Floats, format_: WeightFormat, channel_axis: ChannelAxis) -> QuantizedWeight:
    """`weight` in `format_`, at the scales, tables or grid of least squared error, each value at its nearest code.

    Args:
        weight: finite float32, any shape that the format can store (`quantization.storage.parts`).
        channel_axis: axis of the output channels; unused at tensor granularity.

    Raises:
        ValueError: the weight is not finite float32, the axis is not one of its axes, or the format is float32.
        NotStorable: the weight is empty.
    """
    if not weight.size:
        storage(format_, weight.shape, channel_axis)  # raises
    match format_:
        case IntegerFormat():
            if format_.symmetric:
                return round_to_scale(weight, format_, optimal_scales(weight, format_, channel_axis))
            return round_to_scale(weight, format_, *optimal_affine(weight, format_, channel_axis))
        case HalfFormat():
            return HalfWeight(format_, finite_float32(weight).clip(-LARGEST, LARGEST).astype(np.float16))
        case CodebookFormat():
            return codebook(weight, format_, channel_axis)
        case PowerFormat():
            return round_power(weight, format_, channel_axis)
        case HadamardFormat():
            return round_rotated(weight, format_, channel_axis)
        case CodedFormat():
            return round_coded(weight, format_)
    raise ValueError(f"{format_.name} keeps the weight as it is; there is nothing to round")


def round_rotated(weight: Floats, format_: HadamardFormat, channel_axis: ChannelAxis) -> HadamardWeight:
    """`round_nearest` of the rotated weight.

    Raises:
        ValueError: the weight is not finite float32, the axis is not one of its axes, or no rotation fits.
    """
    turned = rotation(finite_float32(weight).shape, scale_shape(format_, weight.shape, channel_axis))
    values, plain = turned.turn(weight) / np.float32(turned.block), IntegerFormat(format_.bits)
    integers = round_to_scale(values, plain, optimal_scales(values, plain, channel_axis))
    return HadamardWeight(format_, integers.codes, integers.scale)


def round_to_scale(
    weight: Floats, format_: IntegerFormat, scale: Floats, zero_point: NDArray[np.int8] | None = None
) -> IntegerWeight:
    """`weight` at its nearest codes for given scales (ties to even; values out of range at the end code)."""
    grouped = np.atleast_1d(facing(weight, format_, scale.shape))
    codes = np.empty(grouped.shape, dtype=np.int8)

    def visit(part: slice, room: Room) -> None:
        shares = [a[part] if a.ndim and len(a) > 1 else a for a in (scale, zero_point) if a is not None]
        [values] = room.arrays(1, grouped[part].shape)
        np.divide(grouped[part], shares[0], out=values)
        np.rint(values, out=values)
        if zero_point is not None:
            values += shares[1]
        codes[part] = np.clip(values, format_.lowest_code, format_.highest_code, out=values)

    on_cores(visit, list(parts(len(grouped), math.prod(grouped.shape[1:]), TILE)))
    return IntegerWeight(format_, codes.reshape(weight.shape), scale, zero_point)

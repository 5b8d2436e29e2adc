"""The families of formats: which class holds a weight of each, and how its values are rounded one by one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantization.formats import CodebookFormat, HadamardFormat, HalfFormat, IntegerFormat, PowerFormat, WeightFormat
from quantization.rounding.codebook_tables import codebook
from quantization.rounding.nearest import round_nearest
from quantization.rounding.ranges import share_shape
from quantization.storage.codebooks import CodebookWeight, table_shape
from quantization.storage.halves import HalfWeight
from quantization.storage.parts import storage
from quantization.storage.powers import PowerWeight, round_power
from quantization.storage.rotations import HadamardWeight, round_rotated
from quantization.storage.weights import IntegerWeight, QuantizedWeight

_CLASSES: Mapping[type, type[QuantizedWeight]] = {
    IntegerFormat: IntegerWeight,
    HalfFormat: HalfWeight,
    CodebookFormat: CodebookWeight,
    PowerFormat: PowerWeight,
    HadamardFormat: HadamardWeight,
}


def quantized_weight(format_: WeightFormat, arrays: Mapping[str, NDArray[Any]]) -> QuantizedWeight:
    """The inverse of `QuantizedWeight.arrays`.

    Raises:
        ValueError: weights in this format hold no arrays, or the arrays are not those of a weight in it.
    """
    if type(format_) not in _CLASSES:
        raise ValueError(f"{format_.name} is how a weight came, and no format that it is rounded to")
    return _CLASSES[type(format_)](format_, **arrays)


def lies_along(weight: QuantizedWeight, channel_axis: int) -> bool:
    """Whether what `weight` shares among its values has the shape that it has for output channels on this axis."""
    try:
        match weight:
            case IntegerWeight():
                return share_shape(weight.format, weight.shape, channel_axis) == weight.scale.shape
            case PowerWeight() | HadamardWeight():
                integers = IntegerFormat(weight.format.bits)
                return share_shape(integers, weight.shape, channel_axis) == weight.scale.shape
            case CodebookWeight():
                return table_shape(weight.format, weight.shape, channel_axis) == weight.table.shape
    except ValueError:
        return False
    return True


def rounded(weight: NDArray[np.float32], format_: WeightFormat, channel_axis: int) -> QuantizedWeight:
    """`weight` in `format_`, each value rounded by itself: no other value makes up for its error.

    Args:
        weight: finite float32, any shape that the format can store (`quantization.storage.parts`).
        channel_axis: axis of the output channels.

    Raises:
        ValueError: the weight is not finite float32, or the axis is not one of its axes, or float32 is asked for.
        NotStorable: the weight holds no number.
    """
    if not weight.size:
        storage(format_, weight.shape, channel_axis)  # which says why it has none
    match format_:
        case IntegerFormat():
            return round_nearest(weight, format_, channel_axis)
        case HalfFormat():
            return HalfWeight.of(weight)
        case CodebookFormat():
            return codebook(weight, format_, channel_axis)
        case PowerFormat():
            return round_power(weight, format_, channel_axis)
        case HadamardFormat():
            return round_rotated(weight, format_, channel_axis)
    raise ValueError(f"{format_.name} is how a weight came, and no format that it is rounded to")

"""GPTQ of rotated weights.

With `W = T R'` and R orthogonal the error of the layer is `(T - Q) R' H R (T - Q)'`, so that T is rounded as any
weight, for the rotated second moments.

Both the target of GPTQ and its factor are rotated, and the damping is the same: a rotation keeps the mean of H's
diagonal. What is gained over rotating alone is what GPTQ gains over the nearest codes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from network.graph import ChannelAxis
from quantization.formats import MAX_BITS, HadamardFormat, IntegerFormat
from quantization.granularity import scale_shape
from quantization.rounding.convolution import ConvReduction
from quantization.rounding.gptq import DAMPING, Prepared, gptq, prepare
from quantization.rounding.nearest import round_rotated
from quantization.rounding.reduction import Reduction
from quantization.rounding.statistics import InputStatistics
from quantization.storage.rotations import HadamardWeight, Rotation, hadamard, rotation
from quantization.storage.weights import IntegerWeight


def runs_along_inputs(reduction: Reduction) -> bool:
    """Whether the blocks of a rotation lie as H does; those of a ConvTranspose run along another order of weights."""
    return not (isinstance(reduction, ConvReduction) and reduction.transposed)


def prepare_rotated(
    weight: NDArray[np.float32], channel_axis: ChannelAxis, statistics: InputStatistics, damping: float = DAMPING
) -> Prepared:
    """`weight` prepared for GPTQ in the rotated basis, towards what `prepare` says; `runs_along_inputs`.

    Raises:
        ValueError: the weight is not finite, of another shape, or no rotation fits.
    """
    turned = rotation(weight.shape, scale_shape(HadamardFormat(MAX_BITS), weight.shape, channel_axis))
    return prepare(weight, statistics, damping, lambda rows: _rotated(rows, turned))


def turned_back(integers: IntegerWeight) -> HadamardWeight:
    """The weight whose rotation is `integers`, with a scale per channel."""
    norm = np.float32(np.sqrt(rotation(integers.shape, integers.scale.shape).block))
    return HadamardWeight(HadamardFormat(integers.format.bits), integers.codes, integers.scale / norm)


def hadamard_gptq(
    weight: NDArray[np.float32],
    formats: Sequence[HadamardFormat],
    channel_axis: ChannelAxis,
    statistics: InputStatistics,
) -> list[HadamardWeight]:
    """`weight` in each of `formats`, rounded by GPTQ in the rotated basis; one factor serves all.

    Where blocks do not run along the inputs (`runs_along_inputs`) each value is rounded by itself.

    Args:
        weight: finite float32, the weight that `statistics` was made for, of a shape that `rotation` takes.
        channel_axis: axis of the output channels.

    Raises:
        ValueError: the weight is not finite, of another shape, or no rotation fits.
    """
    if not runs_along_inputs(statistics.reduction):
        return [round_rotated(weight, format_, channel_axis) for format_ in formats]
    prepared = prepare_rotated(weight, channel_axis, statistics)
    integers = gptq(prepared, [IntegerFormat(format_.bits) for format_ in formats], channel_axis)
    return [turned_back(own) for own in integers]


def _rotated(rows: NDArray[Any], turned: Rotation) -> NDArray[Any]:
    """The last axis of `rows` times the orthogonal matrix, in the type of `rows`."""
    matrix = (hadamard(turned.block) / np.sqrt(turned.block)).astype(rows.dtype)
    return np.asarray((rows.reshape(-1, turned.block) @ matrix).reshape(rows.shape))

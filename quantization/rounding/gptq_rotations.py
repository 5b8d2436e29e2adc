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

from quantization.formats import MAX_BITS, HadamardFormat, IntegerFormat
from quantization.rounding.gptq import gptq_prepared, prepare
from quantization.rounding.ranges import share_shape
from quantization.rounding.reduction import ConvReduction
from quantization.rounding.statistics import InputStatistics
from quantization.storage.rotations import HadamardWeight, Rotation, hadamard, rotation, round_rotated


def hadamard_gptq(
    weight: NDArray[np.float32], formats: Sequence[HadamardFormat], channel_axis: int, statistics: InputStatistics
) -> list[HadamardWeight]:
    """`weight` in each of `formats`, rounded by GPTQ in the rotated basis; one factor serves all.

    Of a ConvTranspose the blocks run along another order of the weights than H: there each value is rounded by itself.

    Args:
        weight: finite float32, the weight that `statistics` was made for, of a shape that `rotation` takes.
        channel_axis: axis of the output channels.

    Raises:
        ValueError: the weight is not finite, of another shape, or no rotation fits.
    """
    integers = [IntegerFormat(format_.bits) for format_ in formats]
    turned = rotation(weight.shape, share_shape(IntegerFormat(MAX_BITS), weight.shape, channel_axis))
    if isinstance(statistics.reduction, ConvReduction) and statistics.reduction.transposed:
        return [round_rotated(weight, format_, channel_axis) for format_ in formats]
    prepared = prepare(weight, statistics, rotate=lambda rows: _rotated(rows, turned))
    norm = np.float32(np.sqrt(turned.block))
    found = gptq_prepared(prepared, integers, channel_axis).weights
    return [HadamardWeight(format_, own.codes, own.scale / norm) for format_, own in zip(formats, found, strict=True)]


def _rotated(rows: NDArray[Any], turned: Rotation) -> NDArray[Any]:
    """The last axis of `rows` times the orthogonal matrix, in the type of `rows`."""
    matrix = (hadamard(turned.block) / np.sqrt(turned.block)).astype(rows.dtype)
    return np.asarray((rows.reshape(-1, turned.block) @ matrix).reshape(rows.shape))

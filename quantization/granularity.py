"""Granularity: which elements of a weight share one scale, one zero point or one table of values.

A weight keeps its own shape, and what its elements share has a shape that tells who shares it:

    weight [64, 32, 3, 3], channel axis 0      scale              groups of elements
    tensor                                     ()                 [1, 18432, 1]
    channel                                    [64, 1, 1, 1]      [64, 288, 1]
    block of 32                                [576, 1, 1]        [576, 32, 1]

    weight [128, 40], channel axis 1           scale              groups of elements
    tensor                                     ()                 [1, 5120, 1]
    channel                                    [1, 40]            [40, 128, 1]
    block of 32                                [4, 1, 40]         [4, 32, 40]

    stack [8, 128, 40], channel axes 0 and 2   scale              groups of elements
    tensor                                     ()                 [1, 40960, 1]
    channel, of each matrix its own            [8, 1, 40]         [320, 128, 1]
    block of 32                                [32, 1, 40]        [32, 32, 40]

Blocks, tables and rotations run along what one output sums over, `reduced` of the weight folded to
`[outer, reduced, inner]` without moving a value:

    Conv [C_out, C_in, *kernel]          [C_out, C_in * kernel, 1]
    Gemm, MatMul [K, N]                  [1, K, N]
    Gemm with transB [N, K], Gather      [N, K, 1]
    MatMul of a stack [S, K, N]          [S, K, N]
    LSTM, GRU, RNN [dirs, rows, K]       [dirs * rows, K, 1]

The weight of a ConvTranspose `[C_in, C_out, *kernel]` sums over its first axis and has its channels on the second: no
reshape brings what an output sums over together, unless there are at most two input channels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from network.graph import ChannelAxis
from quantization.formats import Granularity, ScaledFormat

# before the axis of channels: one, or the two directions of a recurrent layer
_MOST_BEFORE_CHANNELS = 2

Element = TypeVar("Element", bound=np.generic)
Shape = tuple[int, ...]


class Fold(NamedTuple):
    """The shape `[outer, reduced, inner]`."""

    outer: int
    reduced: int
    inner: int


@dataclass(frozen=True, slots=True)
class NotFoldable:
    """Why a weight has no such shape."""

    reason: str


def channel_axes(channel_axis: ChannelAxis, rank: int) -> tuple[int, ...]:
    """Every axis along which a weight of so many axes has scales of its own, in order, counted from 0."""
    axes = (channel_axis,) if isinstance(channel_axis, int) else channel_axis
    return tuple(sorted(axis % rank for axis in axes)) if rank else ()


def every_channel_axis(shape: Shape) -> tuple[ChannelAxis, ...]:
    """All that the channel axis of a weight of `shape` may be: each axis, or each of the matrices of a stack."""
    rank = len(shape)
    stacks = [(*range(rank - 2), axis) for axis in (rank - 2, rank - 1)] if rank > 2 else []
    return *range(rank), *stacks


def fold(shape: Shape, channel_axis: ChannelAxis) -> Fold | NotFoldable:
    """The folded shape of a weight.

    Weight `[64, 32, 3, 3]`, channel axis 0 -> `[64, 288, 1]`; weight `[128, 40]`, channel axis 1 -> `[1, 128, 40]`;
    stack `[8, 128, 40]`, channel axes 0 and 1 -> `[1024, 40, 1]`.
    """
    if len(shape) < 2:
        return NotFoldable(f"a weight of shape {shape} has no axis that is summed over")
    *stack, axis = channel_axes(channel_axis, len(shape))
    if axis == len(shape) - 1:
        return Fold(math.prod(shape[:-2]), shape[-2], shape[-1])
    if not stack and math.prod(shape[:axis]) > _MOST_BEFORE_CHANNELS:
        return NotFoldable(f"a weight of shape {shape} with its channels on axis {axis} is summed over across them")
    return Fold(math.prod(shape[: axis + 1]), math.prod(shape[axis + 1 :]), 1)


def scale_shape(format_: ScaledFormat, shape: Shape, channel_axis: ChannelAxis) -> Shape:
    """The shape of the scales of a weight.

    Weight `[64, 32, 3, 3]`, channel axis 0 -> scale `[64, 1, 1, 1]` for channels, `()` for the tensor, `[576, 1, 1]`
    for blocks of 32.

    Raises:
        ValueError: the weight does not divide into the format's blocks.
    """
    match format_.granularity:
        case Granularity.TENSOR:
            return ()
        case Granularity.CHANNEL:
            axes = channel_axes(channel_axis, len(shape))
            return tuple(n if axis in axes else 1 for axis, n in enumerate(shape))
    folded = fold(shape, channel_axis)
    if isinstance(folded, NotFoldable) or folded.reduced % format_.block:
        raise ValueError(f"a weight of shape {shape} does not divide into blocks of {format_.block}")
    return folded.outer * folded.reduced // format_.block, 1, folded.inner


def is_scale_shape(scale: Shape, format_: ScaledFormat, shape: Shape, channel_axis: ChannelAxis) -> bool:
    """Whether scales of shape `scale` are those of a weight of `shape` with output channels on this axis."""
    try:
        return scale_shape(format_, shape, channel_axis) == scale
    except ValueError:
        return False


def groups(weight: NDArray[Element], format_: ScaledFormat, channel_axis: ChannelAxis) -> NDArray[Element]:
    """`[outer, elements, inner]`: the weights `[i, :, j]` share one scale, the scales in the order of `scale_shape`.

    Weight `[64, 32, 3, 3]`, channel axis 0 -> `[64, 288, 1]` for channels, `[1, 18432, 1]` for the tensor,
    `[576, 32, 1]` for blocks of 32.

    Raises:
        ValueError: the axis is not one of the weight's, or the weight does not divide into the format's blocks.
    """
    given = (channel_axis,) if isinstance(channel_axis, int) else channel_axis
    if not all(-weight.ndim <= axis < max(weight.ndim, 1) for axis in given):
        raise ValueError(f"channel axis {channel_axis} is outside of a weight of shape {weight.shape}")
    match format_.granularity:
        case Granularity.TENSOR:
            return weight.reshape(1, -1, 1)
        case Granularity.CHANNEL:
            axes = channel_axes(channel_axis, weight.ndim)
            channels = math.prod(weight.shape[axis] for axis in axes)
            return np.moveaxis(weight, axes, range(len(axes))).reshape(channels, -1, 1)
    blocks, _, inner = scale_shape(format_, weight.shape, channel_axis)
    return weight.reshape(blocks, format_.block, inner)


def facing(weight: NDArray[Element], format_: ScaledFormat, scale: Shape) -> NDArray[Element]:
    """The weight, as a view, in the shape along which its scales broadcast.

    Weight `[64, 32, 3, 3]` and scale `[64, 1, 1, 1]` or `()` -> itself; scale `[576, 1, 1]` -> `[576, 32, 1]`.
    """
    return weight.reshape(scale[0], format_.block, scale[2]) if format_.block else weight


def spread(shared: NDArray[Element], format_: ScaledFormat, shape: Shape) -> NDArray[Element]:
    """For every weight of `shape` its own of what is `shared`, an array in the shape of the scales.

    Scale `[64, 1, 1, 1]`, `()` or `[576, 1, 1]` -> `[64, 32, 3, 3]`.
    """
    if not format_.block:
        return np.broadcast_to(shared, shape)
    return np.broadcast_to(shared, (shared.shape[0], format_.block, shared.shape[2])).reshape(shape)

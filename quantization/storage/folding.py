"""A weight folded to `[outer, reduced, inner]`, without moving a value: `reduced` is what one output sums over.

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

# before the axis of channels: one, or the two directions of a recurrent layer
_MOST_BEFORE_CHANNELS = 2


@dataclass(frozen=True, slots=True)
class Fold:
    """The shape `[outer, reduced, inner]`."""

    outer: int
    reduced: int
    inner: int

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.outer, self.reduced, self.inner


@dataclass(frozen=True, slots=True)
class NotFoldable:
    """Why a weight has no such shape."""

    reason: str


def fold(shape: tuple[int, ...], channel_axis: int) -> Fold | NotFoldable:
    """The folded shape of a weight with output channels on `channel_axis`."""
    axis = channel_axis % len(shape) if shape else 0
    if len(shape) < 2:
        return NotFoldable(f"a weight of shape {shape} has no axis that is summed over")
    if axis == len(shape) - 1:
        return Fold(math.prod(shape[:-2]), shape[-2], shape[-1])
    if math.prod(shape[:axis]) > _MOST_BEFORE_CHANNELS:
        return NotFoldable(f"a weight of shape {shape} with its channels on axis {axis} is summed over across them")
    return Fold(math.prod(shape[: axis + 1]), math.prod(shape[axis + 1 :]), 1)

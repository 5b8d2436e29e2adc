"""Scales and zero points of least squared error, for integers that are not symmetric.

For each channel (block, or the whole tensor) minimise `sum (scale * (q - zero_point) - w)**2` over both. 0 lies within
the range, as zero points are codes.

- Both ends of the range `min(w, 0)..max(w, 0)` are drawn in by ratios of one grid, first together, then the lower, then
  the upper one alone, then both once more by little: a heavy tail on one side is cut, and the other keeps its values.
- From the best point of that, alternation: with the codes fixed, the best line through `(q, w)` gives scale and zero
  point; a step that does not lower the error is not taken.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from network.graph import ChannelAxis
from quantization.formats import IntegerFormat
from quantization.granularity import groups, scale_shape
from quantization.rounding.ranges import ends, finite_float32
from quantization.rounding.tiles import Floats, Room, by_tiles
from quantization.storage.half_scales import round_scales

_RATIOS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)
_FINE_RATIOS = (1.0, 0.975, 0.95, 0.925, 0.9, 0.85, 0.8, 0.7)  # at 5 bits and more ends are cut by little
_NEAR = (0.97, 1.03)  # times the best ratios
_ALTERNATIONS = 3
_FINE_BITS = 5

Parameters = tuple[Floats, Floats]  # scale and zero point of each group


def optimal_affine(
    weight: Floats, format_: IntegerFormat, channel_axis: ChannelAxis
) -> tuple[Floats, NDArray[np.int8]]:
    """Scales and zero points in the shape that `IntegerWeight` takes.

    A channel that holds only zeros, or numbers too small for a float32 scale, gets scale 1 and zero point 0.

    Raises:
        ValueError: the weight is not finite float32, the axis is not one of its axes, or no blocks fit.
    """
    grouped = groups(finite_float32(weight), format_, channel_axis)
    scale, zero_point = by_tiles(grouped, partial(_fitted, format_=format_), 2)
    if format_.block:
        scale = round_scales(scale)
    shape = scale_shape(format_, weight.shape, channel_axis)
    return scale.reshape(shape), zero_point.astype(np.int8).reshape(shape)


def _fitted(groups: Floats, axis: int, room: Room, format_: IntegerFormat) -> Floats:
    """Of `groups`, whose elements lie along `axis`: `[2, groups]`, zero points in float32."""
    tile = _Tile(groups, axis, format_, room)
    low, high = (np.expand_dims(end, axis) for end in ends(groups, axis))
    ratios = _RATIOS if format_.bits < _FINE_BITS else _FINE_RATIOS
    best = tile.candidate(_within(low, high, format_))
    cut = np.ones((2, *low.shape), dtype=np.float32)  # of low and high
    whole = np.ones_like(cut)
    for moved, near in (((0, 1), False), (0, False), (1, False), (0, True), (1, True)):
        middle = cut if near else whole
        for ratio in _NEAR if near else ratios[1:]:
            trial = cut.copy()
            trial[moved, ...] = middle[moved, ...] * np.float32(ratio)
            other = tile.candidate(_within(trial[0] * low, trial[1] * high, format_))
            cut = np.where(other.error < best.error, trial, cut)
            best = best.or_better(other)
    for _ in range(_ALTERNATIONS):
        best = best.or_better(tile.candidate(tile.line(best)))
    return np.stack([best.scale, best.zero_point]).reshape(2, -1)


@dataclass(frozen=True, slots=True, eq=False)
class _Candidate:
    """Parameters and the squared `error` that each group has with them."""

    scale: Floats
    zero_point: Floats
    error: NDArray[np.floating]

    def or_better(self, other: _Candidate) -> _Candidate:
        """Group by group the one of smaller error."""
        wins = other.error < self.error
        return _Candidate(
            np.where(wins, other.scale, self.scale),
            np.where(wins, other.zero_point, self.zero_point),
            np.where(wins, other.error, self.error),
        )


class _Tile:
    """Groups that stay in a core's cache while parameters are tried on them, elements along `axis` of `values`."""

    def __init__(self, values: Floats, axis: int, format_: IntegerFormat, room: Room) -> None:
        self.values, self.axis = values, axis
        self._format = format_
        self._room: Floats
        self._divided, self._room = room.arrays(2, values.shape)

    def candidate(self, parameters: Parameters) -> _Candidate:
        """The error with these."""
        scale, zero_point = parameters
        difference = self._codes(scale, zero_point)
        difference -= self._divided
        if self.axis:  # long groups: in pairs, which keeps the digits of the sum
            squares = np.square(difference, out=difference).sum(axis=1, keepdims=True)
        else:
            squares = np.einsum("ij,ij->j", difference, difference)[None]
        return _Candidate(scale, zero_point, squares * np.square(scale, dtype=np.float64))

    def line(self, best: _Candidate) -> Parameters:
        """The line of least squares through codes and weights; the same parameters where all codes are one."""
        codes = self._codes(best.scale, best.zero_point)
        count = self.values.shape[self.axis]
        mean_code, mean = (a.mean(axis=self.axis, keepdims=True, dtype=np.float64) for a in (codes, self.values))
        subscripts = "ij,ij->i" if self.axis else "ij,ij->j"
        squares, products = (np.einsum(subscripts, codes, a).reshape(mean.shape) for a in (codes, self.values))
        variance, covariance = squares - count * mean_code**2, products - count * mean_code * mean
        slope = np.divide(covariance, variance, out=np.zeros_like(variance), where=variance > 0)
        usable = slope > np.finfo(np.float32).tiny
        slope = np.where(usable, slope, best.scale)
        offset = np.where(usable, best.zero_point + mean_code - mean / slope, best.zero_point)
        return _valid(slope.astype(np.float32), offset, self._format)

    def _codes(self, scale: Floats, zero_point: Floats) -> Floats:
        """Codes less their zero point."""
        np.divide(self.values, scale, out=self._divided)
        codes: Floats = self._room
        np.rint(self._divided, out=codes)
        np.maximum(codes, self._format.lowest_code - zero_point, out=codes)
        np.minimum(codes, self._format.highest_code - zero_point, out=codes)
        return codes


def _within(low: Floats, high: Floats, format_: IntegerFormat) -> Parameters:
    """The parameters whose lowest and highest codes are at `low` and `high`."""
    scale = ((high - low) / (format_.highest_code - format_.lowest_code)).astype(np.float32)
    return _valid(scale, format_.lowest_code - low / np.where(scale > 0, scale, 1), format_)


def _valid(scale: Floats, zero_point: NDArray[np.floating], format_: IntegerFormat) -> Parameters:
    """Scales that float32 holds, zero points that are codes."""
    alive = scale >= np.finfo(np.float32).tiny
    codes = np.clip(np.rint(zero_point), format_.lowest_code, format_.highest_code)
    return np.where(alive, scale, 1).astype(np.float32), np.where(alive, codes, 0).astype(np.float32)

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

import numpy as np
from numpy.typing import NDArray

from quantization.formats import Granularity, IntegerFormat
from quantization.rounding.ranges import share_rows, share_shape
from quantization.storage.half_scales import rounded

_RATIOS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)
_FINE_RATIOS = (1.0, 0.975, 0.95, 0.925, 0.9, 0.85, 0.8, 0.7)  # at 5 bits and more ends are cut by little
_NEAR = (0.97, 1.03)  # times the ratios found
_ALTERNATIONS = 3
_FINE_BITS = 5
_TILE = 1 << 16  # elements: float32 tiles of this size stay in a core's second-level cache

Floats = NDArray[np.float32]
Parameters = tuple[Floats, Floats]  # scale and zero point, of each row


def optimal_affine(weight: Floats, format_: IntegerFormat, channel_axis: int) -> tuple[Floats, NDArray[np.int8]]:
    """Scales and zero points in the shape that `IntegerWeight` takes.

    A channel that holds only zeros, or numbers too small for a float32 scale, gets scale 1 and zero point 0.

    Raises:
        ValueError: the weight is not finite float32, the axis is not one of its axes, or no blocks fit.
    """
    rows = share_rows(weight, format_, channel_axis)
    scale, zero_point = np.ones((len(rows), 1), dtype=np.float32), np.zeros((len(rows), 1), dtype=np.float32)
    step = max(1, _TILE // max(rows.shape[1], 1))
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        scale[part], zero_point[part] = _fitted(rows[part], format_)
    if format_.granularity is Granularity.BLOCK:
        scale = rounded(scale)
    shape = share_shape(format_, weight.shape, channel_axis)
    return scale.reshape(shape), zero_point.astype(np.int8).reshape(shape)


def _fitted(rows: Floats, format_: IntegerFormat) -> Parameters:
    """Of `rows` `[rows, elements]`; float32 zero points."""
    tile = _Tile(rows, format_)
    low, high = (end(tile.values, axis=tile.axis, keepdims=True, initial=0.0) for end in (np.min, np.max))
    ratios = _RATIOS if format_.bits < _FINE_BITS else _FINE_RATIOS
    best = tile.tried(_within(low, high, format_))
    cut = np.ones((2, *low.shape), dtype=np.float32)  # of low and high
    whole = np.ones_like(cut)
    for moved, near in (((0, 1), False), (0, False), (1, False), (0, True), (1, True)):
        middle = cut if near else whole
        for ratio in _NEAR if near else ratios[1:]:
            trial = cut.copy()
            trial[moved, ...] = middle[moved, ...] * np.float32(ratio)
            found = tile.tried(_within(trial[0] * low, trial[1] * high, format_))
            cut = np.where(found.error < best.error, trial, cut)
            best = best.or_better(found)
    for _ in range(_ALTERNATIONS):
        best = best.or_better(tile.tried(tile.line(best)))
    return best.scale.reshape(-1, 1), best.zero_point.reshape(-1, 1)


@dataclass(frozen=True, slots=True, eq=False)
class _Tried:
    """Parameters and the squared `error` that each row has with them."""

    scale: Floats
    zero_point: Floats
    error: Floats

    def or_better(self, other: _Tried) -> _Tried:
        """Row by row the one of smaller error."""
        wins = other.error < self.error
        return _Tried(
            np.where(wins, other.scale, self.scale),
            np.where(wins, other.zero_point, self.zero_point),
            np.where(wins, other.error, self.error),
        )


class _Tile:
    """Rows that stay in a core's cache while parameters are tried on them, elements along `axis` of `values`.

    Inner loops run over the longer side: short rows, of blocks, lie side by side.
    """

    def __init__(self, rows: Floats, format_: IntegerFormat) -> None:
        self.axis = 0 if len(rows) > rows.shape[1] else 1
        self.values = np.ascontiguousarray(rows if self.axis else rows.T)
        self._format = format_
        self._room = np.empty_like(self.values)

    def tried(self, parameters: Parameters) -> _Tried:
        """The error with these."""
        scale, zero_point = parameters
        difference = self._codes(scale, zero_point)
        difference *= scale
        difference -= self.values
        np.square(difference, out=difference)
        return _Tried(scale, zero_point, difference.sum(axis=self.axis, keepdims=True))

    def line(self, best: _Tried) -> Parameters:
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
        codes = np.divide(self.values, scale, out=self._room)
        np.rint(codes, out=codes)
        np.maximum(codes, self._format.lowest_code - zero_point, out=codes)
        return np.minimum(codes, self._format.highest_code - zero_point, out=codes)


def _within(low: Floats, high: Floats, format_: IntegerFormat) -> Parameters:
    """The parameters whose lowest and highest codes are at `low` and `high`."""
    scale = ((high - low) / (format_.highest_code - format_.lowest_code)).astype(np.float32)
    return _valid(scale, format_.lowest_code - low / np.where(scale > 0, scale, 1), format_)


def _valid(scale: Floats, zero_point: NDArray[np.floating], format_: IntegerFormat) -> Parameters:
    """Scales that float32 holds, zero points that are codes."""
    alive = scale >= np.finfo(np.float32).tiny
    codes = np.clip(np.rint(zero_point), format_.lowest_code, format_.highest_code)
    return np.where(alive, scale, 1).astype(np.float32), np.where(alive, codes, 0).astype(np.float32)

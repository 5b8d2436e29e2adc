"""Scales and zero points of least squared error, for integers that are not symmetric.

For each channel (block, or the whole tensor) minimise `sum (scale * (q - zero_point) - w)**2` over both. 0 lies within
the range, as zero points are codes.

- Both ends of the range `min(w, 0)..max(w, 0)` are drawn in by ratios of one grid, each by itself: a heavy tail on one
  side is cut, and the other keeps its values.
- From the best point of that, alternation: with the codes fixed, the best line through `(q, w)` gives scale and zero
  point; a step that does not lower the error is not taken.
"""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray

from quantization.formats import Granularity, IntegerFormat
from quantization.half_scales import rounded
from quantization.ranges import share_rows, share_shape

_RATIOS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)
_FINE_RATIOS = (1.0, 0.975, 0.95, 0.925, 0.9, 0.85, 0.8, 0.7)  # at 5 bits and more ends are cut by little
_ALTERNATIONS = 3
_AT_ONCE = 1 << 18  # elements of the weight that one array of candidates is made for

Floats = NDArray[np.float32]
Parameters = tuple[Floats, Floats]  # scale and zero point, `[rows, 1]`


def optimal_affine(weight: Floats, format_: IntegerFormat, channel_axis: int) -> tuple[Floats, NDArray[np.int8]]:
    """Scales and zero points in the shape that `IntegerWeight` takes.

    A channel that holds only zeros, or numbers too small for a float32 scale, gets scale 1 and zero point 0.

    Raises:
        ValueError: the weight is not finite float32, the axis is not one of its axes, or no blocks fit.
    """
    rows = share_rows(weight, format_, channel_axis)
    scale, zero_point = np.ones((len(rows), 1), dtype=np.float32), np.zeros((len(rows), 1), dtype=np.float32)
    step = max(1, _AT_ONCE // max(rows.shape[1], 1))
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        scale[part], zero_point[part] = _fitted(rows[part], format_)
    if format_.granularity is Granularity.BLOCK:
        scale = rounded(scale)
    shape = share_shape(format_, weight.shape, channel_axis)
    return scale.reshape(shape), zero_point.astype(np.int8).reshape(shape)


def _fitted(rows: Floats, format_: IntegerFormat) -> Parameters:
    """Of `rows` `[rows, elements]`."""
    low, high = (end(rows, axis=1, initial=0.0)[:, None] for end in (np.min, np.max))
    best = _within(low, high, format_)
    error = _error(rows, best, format_)
    ratios = _RATIOS if format_.bits < 5 else _FINE_RATIOS
    for below, above in itertools.product(ratios, ratios):
        best, error = _better(rows, best, error, _within(below * low, above * high, format_), format_)
    for _ in range(_ALTERNATIONS):
        best, error = _better(rows, best, error, _line(rows, best, format_), format_)
    return best


def _within(low: Floats, high: Floats, format_: IntegerFormat) -> Parameters:
    """The parameters whose lowest and highest codes are at `low` and `high`."""
    scale = ((high - low) / (format_.highest_code - format_.lowest_code)).astype(np.float32)
    return _valid(scale, format_.lowest_code - low / np.where(scale > 0, scale, 1), format_)


def _valid(scale: Floats, zero_point: NDArray[np.floating], format_: IntegerFormat) -> Parameters:
    """Scales that float32 holds, zero points that are codes."""
    alive = scale >= np.finfo(np.float32).tiny
    codes = np.clip(np.rint(zero_point), format_.lowest_code, format_.highest_code)
    return np.where(alive, scale, 1).astype(np.float32), np.where(alive, codes, 0).astype(np.float32)


def _better(
    rows: Floats, best: Parameters, error: NDArray[np.float64], tried: Parameters, format_: IntegerFormat
) -> tuple[Parameters, NDArray[np.float64]]:
    """Row by row the parameters of the smaller error, and that error."""
    found = _error(rows, tried, format_)
    wins = found < error
    return (np.where(wins, tried[0], best[0]), np.where(wins, tried[1], best[1])), np.where(wins, found, error)


def _codes(rows: Floats, parameters: Parameters, format_: IntegerFormat) -> Floats:
    """Codes less their zero point."""
    scale, zero_point = parameters
    codes = np.rint(rows / scale)
    return np.clip(codes, format_.lowest_code - zero_point, format_.highest_code - zero_point, out=codes)


def _error(rows: Floats, parameters: Parameters, format_: IntegerFormat) -> NDArray[np.float64]:
    """`[rows, 1]`."""
    difference = _codes(rows, parameters, format_) * parameters[0] - rows
    return np.square(difference).sum(axis=1, keepdims=True, dtype=np.float64)


def _line(rows: Floats, parameters: Parameters, format_: IntegerFormat) -> Parameters:
    """The line of least squares through codes and weights; the same parameters where all codes are one."""
    codes = _codes(rows, parameters, format_) + parameters[1]
    mean_code, mean = (array.mean(axis=1, keepdims=True, dtype=np.float64) for array in (codes, rows))
    centred = codes - mean_code
    variance = np.square(centred).sum(axis=1, keepdims=True)
    covariance = (centred * rows).sum(axis=1, keepdims=True)
    slope = np.divide(covariance, variance, out=np.zeros_like(variance), where=variance > 0)
    usable = slope > np.finfo(np.float32).tiny
    slope = np.where(usable, slope, parameters[0])
    offset = np.where(usable, mean_code - mean / slope, parameters[1])
    return _valid(slope.astype(np.float32), offset, format_)

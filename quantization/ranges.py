"""Scales of least squared error.

For each channel (or the whole tensor) minimise `sum (scale * q(w / scale) - w)**2` over the scale, with `q` rounding to
the nearest code of the format.

- The grid runs over clip ratios: `|scale| = ratio * max|w| / 2**(bits-1)`. A scale that clips at `ratio` costs at
  least `(1 - ratio)**2 max|w|**2` at the largest weight; one that does not clip costs at most
  `n * 4**-bits * max|w|**2`. So no optimum lies below `1 - sqrt(n) * 2**-bits`, and at 6 bits and more the grid is
  short [ours]. The largest ratio puts `max|w|` on the highest code.
- Both signs are tried: the lowest code lies one further out than the highest, and a negative scale gives it to
  the positive tail. At 2 bits that is every second useful level.
- A second, fine grid lies between the neighbours of the best point: above 3 bits the error is a smooth valley with a
  fine ripple on it.
- From the best point of that, Lloyd's alternation: with the codes fixed the best scale is `<w, q> / <q, q>`, which
  never raises the error.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from quantization.formats import Granularity, IntegerFormat
from quantization.half_scales import rounded
from quantization.weights import block_shape

_SMALLEST_RATIO = 1 / 16
_LARGEST_STEP = 1.15  # between neighbouring ratios of the grid
_FEWEST_RATIOS = 6
_FINE_RATIOS = 8  # between the two neighbours of the best one
_ALTERNATIONS = 2
_TILE = 1 << 16  # elements per pass: float32 tiles of this size stay in a core's second-level cache

Floats = NDArray[np.float32]


def optimal_scales(
    weight: Floats,
    formats: Sequence[IntegerFormat],
    channel_axis: int,
) -> list[Floats]:
    """Scales of least squared error, one array per format, each broadcastable to `weight`.

    Args:
        weight: finite float32.
        channel_axis: axis of the output channels, for formats with a scale per channel.

    Returns:
        Per format an array of the shape that `IntegerWeight` takes. A channel that holds only zeros (or numbers too
        small for a float32 scale) gets scale 1.

    Raises:
        ValueError: the weight is not finite float32, or the axis is not one of its axes, a format is not symmetric, or
            the weight does not divide into its blocks.
    """
    if not all(format_.symmetric for format_ in formats):
        raise ValueError("scales alone are those of symmetric formats; `affine_ranges` finds the others' zero points")
    scales = []
    for format_ in formats:
        rows = share_rows(weight, format_, channel_axis)
        found = _row_scales(rows, format_)
        if format_.granularity is Granularity.BLOCK:
            found = rounded(found)
        scales.append(found.reshape(share_shape(format_, weight.shape, channel_axis)))
    return scales


def share_shape(format_: IntegerFormat, shape: tuple[int, ...], channel_axis: int) -> tuple[int, ...]:
    """The shape of the scales of a weight of `shape`.

    Raises:
        ValueError: the weight does not divide into the format's blocks.
    """
    if format_.granularity is Granularity.TENSOR:
        return ()
    if format_.granularity is Granularity.CHANNEL:
        return tuple(n if axis == channel_axis % len(shape) else 1 for axis, n in enumerate(shape))
    blocks = block_shape(format_.block, shape, channel_axis)
    if blocks is None:
        raise ValueError(f"a weight of shape {shape} does not divide into blocks of {format_.block}")
    return blocks


def share_rows(weight: Floats, format_: IntegerFormat, channel_axis: int) -> Floats:
    """`[scales, weights that share one]`, the scales in the order of `share_shape`.

    Raises:
        ValueError: as `optimal_scales`.
    """
    if weight.dtype != np.float32 or not np.isfinite(weight).all():
        raise ValueError(f"the weight must be finite float32, got {weight.dtype} with values not finite or not float")
    if not -weight.ndim <= channel_axis < max(weight.ndim, 1):
        raise ValueError(f"channel axis {channel_axis} is outside of a weight of shape {weight.shape}")
    shape = share_shape(format_, weight.shape, channel_axis)
    match format_.granularity:
        case Granularity.TENSOR:
            return weight.reshape(1, -1)
        case Granularity.CHANNEL:
            return np.moveaxis(weight, channel_axis, 0).reshape(weight.shape[channel_axis], -1)
    blocks = weight.reshape(shape[0], format_.block, shape[2])
    return blocks.swapaxes(1, 2).reshape(-1, format_.block)


def _row_scales(rows: Floats, format_: IntegerFormat) -> Floats:
    """The scale of each row of `[rows, elements]`."""
    largest = np.max(np.abs(rows), axis=1, initial=0.0)
    unit = np.ldexp(largest, 1 - format_.bits)
    # scales are kept to normal float32, of which every product with a code is exact to half an ulp
    alive = np.flatnonzero(unit * _SMALLEST_RATIO >= np.finfo(np.float32).tiny)
    scales = np.ones(len(rows), dtype=np.float32)
    if alive.size == 0:
        return scales
    ratios = _clip_ratios(format_, rows.shape[1])
    candidates = unit[alive, None] * np.concatenate([ratios, -ratios])
    rows = rows[alive]
    scale, _ = _best(rows, candidates, format_)
    step = ratios[0] / ratios[1]
    fine = np.geomspace(1 / step, step, _FINE_RATIOS + 2)[1:-1].astype(np.float32)
    scale, error = _best(rows, np.concatenate([scale, scale * fine], axis=1), format_)
    for _ in range(_ALTERNATIONS):
        refined = _least_squares(rows, scale, format_)
        refined_error = _errors(rows, refined, format_)
        better = refined_error < error
        scale, error = np.where(better, refined, scale), np.where(better, refined_error, error)
    scales[alive] = scale[:, 0]
    return scales


def _best(rows: Floats, candidates: Floats, format_: IntegerFormat) -> tuple[Floats, NDArray[np.float64]]:
    """Of `candidates` `[rows, count]` the scale of least error for each row, and that error: both `[rows, 1]`."""
    errors = _errors(rows, candidates, format_)
    best = errors.argmin(axis=1)[:, None]
    return np.take_along_axis(candidates, best, axis=1), np.take_along_axis(errors, best, axis=1)


def _clip_ratios(format_: IntegerFormat, elements: int) -> Floats:
    """Ratios from the bound in the module's docstring up to `max|w|` on the highest code, evenly spaced in log, and 1:
    `max|w|` on the lowest code, which finds weights that are integers already."""
    smallest = max(_SMALLEST_RATIO, 1.0 - math.sqrt(elements) * 2.0**-format_.bits)
    largest = -format_.lowest_code / format_.highest_code
    count = max(_FEWEST_RATIOS, 1 + math.ceil(math.log(largest / smallest) / math.log(_LARGEST_STEP)))
    return np.append(np.geomspace(largest, smallest, count), 1.0).astype(np.float32)


def _tiles(rows: int, elements: int) -> Iterator[tuple[slice, slice]]:
    """Blocks of at most `_TILE` elements that cover `[rows, elements]`."""
    width = min(elements, _TILE)
    height = max(1, _TILE // max(width, 1))
    for top in range(0, rows, height):
        for left in range(0, elements, max(width, 1)):
            yield slice(top, top + height), slice(left, left + width)


def _errors(rows: Floats, scales: Floats, format_: IntegerFormat) -> NDArray[np.float64]:
    """Squared error of each row at each of its `scales` `[rows, candidates]`, in the same shape, summed in float64."""
    errors = np.zeros(scales.shape, dtype=np.float64)
    for row, column in _tiles(*rows.shape):
        tile = rows[row, column]
        for candidate in range(scales.shape[1]):
            scale = scales[row, candidate, None]
            difference = _codes(tile, scale, format_)
            difference *= scale
            difference -= tile
            np.square(difference, out=difference)
            errors[row, candidate] += difference.sum(axis=1, dtype=np.float64)
    return errors


def _least_squares(rows: Floats, scale: Floats, format_: IntegerFormat) -> Floats:
    """`<w, q> / <q, q>` per row, with `q` the codes at `scale` `[rows, 1]`; `scale` itself where all codes are 0."""
    products, squares = np.zeros(len(rows)), np.zeros(len(rows))
    for row, column in _tiles(*rows.shape):
        tile = rows[row, column]
        codes = _codes(tile, scale[row], format_)
        products[row] += np.multiply(tile, codes).sum(axis=1, dtype=np.float64)
        squares[row] += np.square(codes).sum(axis=1, dtype=np.float64)
    refined = np.divide(products, squares, out=scale[:, 0].astype(np.float64), where=squares > 0)
    refined = np.where(np.abs(refined) >= np.finfo(np.float32).tiny, refined, scale[:, 0])
    return refined.astype(np.float32)[:, None]


def _codes(rows: Floats, scale: Floats, format_: IntegerFormat) -> Floats:
    codes = np.divide(rows, scale)
    np.rint(codes, out=codes)
    np.clip(codes, format_.lowest_code, format_.highest_code, out=codes)
    return codes

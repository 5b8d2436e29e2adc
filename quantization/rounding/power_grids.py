"""Exponent, scales and nearest codes of weights on power grids.

Yvinec et al., "NUPES: Non-Uniform Post-Training Quantization via Power Exponent Search", arXiv 2308.05600. One exponent
serves a whole weight, and of a small grid the one of least squared error is taken; 1 is the grid of integers.

- The grid is scaled so that the lowest code stands for itself, and rounding uses the values as they are stored.
- Scales are found as in `quantization.rounding.ranges`, by a grid over clip ratios with both signs, a fine grid,
  alternation.
  Here rows are sorted, and running sums give the error of a scale from the places of the `2**bits - 1` thresholds,
  and as cheaply that of the scale that suits its codes best, `<w, v> / <v, v>`: candidates are compared by the latter.
- The step at the end of the grid is up to `1/a` of an integer's, so that no optimum clips below the ratio
  `1 - sqrt(n) / a * 2**-bits` [ours, as in `quantization.rounding.ranges`].
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from network.graph import ChannelAxis
from quantization.formats import PowerFormat
from quantization.granularity import groups, scale_shape
from quantization.rounding.ranges import finite_float32
from quantization.rounding.tiles import Floats, parts
from quantization.storage.powers import PowerWeight, ascending

EXPONENTS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)
# The exponent is chosen by channels spread evenly over all: so many at least, or as many as have so many levels.
_FEWEST_CHANNELS = 16
_LEVELS_IN_ALL = 2048
_SMALLEST_RATIO = 1 / 16
_SMALLEST_REFITTED = 1 / 256
_LARGEST_STEP = 1.2  # between neighbouring ratios of the grid
_FEWEST_RATIOS = 6
_FINE_RATIOS = 6  # between the two neighbours of the best one
_ALTERNATIONS = 2
_AT_ONCE = 1 << 20  # weights, or thresholds, that are worked on together
_ROUNDED_AT_ONCE = 1 << 16  # weights

Doubles = NDArray[np.float64]


def power_table(bits: int, exponent: float) -> NDArray[np.float16]:
    """The grid `sign(code) * |code|**(1 / exponent)` as `PowerWeight.table`, scaled so that the lowest code stands for
    itself."""
    half = 1 << (bits - 1)
    codes = np.roll(np.arange(-half, half), half)
    return (np.sign(codes) * half * (np.abs(codes) / half) ** (1 / exponent)).astype(np.float16)


def optimal_power(
    weight: Floats, format_: PowerFormat, channel_axis: ChannelAxis
) -> tuple[Floats, NDArray[np.float16]]:
    """Scales and table of least squared error, in the shapes that `PowerWeight` takes.

    A channel that holds only zeros (or numbers too small for a float32 scale) gets scale 1.

    Raises:
        ValueError: the weight is not finite float32, or the axis is not one of its axes.
    """
    rows = groups(finite_float32(weight), format_, channel_axis)[:, :, 0]
    count = max(_FEWEST_CHANNELS, _LEVELS_IN_ALL >> format_.bits)
    sample = rows[:: max(1, math.ceil(len(rows) / count))]
    tables = [power_table(format_.bits, exponent) for exponent in EXPONENTS]
    errors = [_fitted(sample, table, exponent)[1].sum() for table, exponent in zip(tables, EXPONENTS, strict=True)]
    best = int(np.argmin(errors))
    scale, _ = _fitted(rows, tables[best], EXPONENTS[best])
    return scale.reshape(scale_shape(format_, weight.shape, channel_axis)), tables[best]


def round_power(weight: Floats, format_: PowerFormat, channel_axis: ChannelAxis) -> PowerWeight:
    """`weight` in `format_`, at the exponent and the scales of least squared error, each element at its nearest value.

    Args:
        weight: finite float32, any shape.
        channel_axis: axis of the output channels.

    Raises:
        ValueError: as `optimal_power`.
    """
    scale, table = optimal_power(weight, format_, channel_axis)
    values = ascending(table).astype(np.float32)
    limits = (values[1:] + values[:-1]) / 2
    rows = np.atleast_1d(weight)
    codes = np.empty(rows.shape, dtype=np.int8)
    for part in parts(len(rows), math.prod(rows.shape[1:]), _ROUNDED_AT_ONCE):
        own = scale[part] if scale.ndim and len(scale) > 1 else scale
        codes[part] = np.searchsorted(limits, rows[part] / own) - len(table) // 2
    return PowerWeight(format_, codes.reshape(weight.shape), scale, table)


def _fitted(rows: Floats, table: NDArray[np.float16], exponent: float) -> tuple[Floats, Doubles]:
    """The scale of each row of `[rows, elements]`, and its squared error: `[rows]`."""
    half = len(table) // 2
    largest = np.max(np.abs(rows), axis=1, initial=0.0)
    scales, errors = np.ones(len(rows), dtype=np.float32), np.zeros(len(rows))
    # scales are kept to normal float32, of which every product with a value is exact to half an ulp
    alive = np.flatnonzero(largest / half * _SMALLEST_REFITTED >= np.finfo(np.float32).tiny)
    values = ascending(table).astype(np.float64) / half
    # a negative scale gives the one code more to the positive tail
    grids = [values, -values[::-1]]
    ratios = _clip_ratios(values, exponent, rows.shape[1])
    step = ratios[1] / ratios[0]
    fine = np.geomspace(1 / step, step, _FINE_RATIOS + 2)
    for part in parts(len(alive), max(rows.shape[1], len(table) * len(ratios)), _AT_ONCE):
        of = alive[part]
        ordered = _OrderedRows(rows[of] / largest[of, None].astype(np.float64))
        (up, up_error), (down, down_error) = (_fit(ordered, grid, ratios, fine) for grid in grids)
        scales[of] = np.where(down_error < up_error, -down, up) * largest[of] / half
        errors[of] = np.minimum(up_error, down_error) * np.square(largest[of], dtype=np.float64)
    return scales, errors


def _clip_ratios(values: Doubles, exponent: float, elements: int) -> Doubles:
    """Rising from the bound in the module's docstring to the largest weight on the highest code, and 1."""
    smallest = max(_SMALLEST_RATIO, 1.0 - math.sqrt(elements) / exponent / len(values))
    largest = min(1 / values[-1], 1 / _SMALLEST_RATIO)
    count = max(_FEWEST_RATIOS, 1 + math.ceil(math.log(largest / smallest) / math.log(_LARGEST_STEP)))
    return np.append(np.geomspace(smallest, largest, count), 1.0)


def _fit(rows: _OrderedRows, grid: Doubles, ratios: Doubles, fine: Doubles) -> tuple[Doubles, Doubles]:
    """The ratio of each row, in units of its largest weight, and its squared error."""
    scale, error = _best(*rows.refitted(grid, np.broadcast_to(ratios, (rows.count, len(ratios)))))
    for _ in range(_ALTERNATIONS):
        trial, trial_error = _best(*rows.refitted(grid, scale[:, None] * fine))
        scale, error = np.where(trial_error < error, trial, scale), np.minimum(trial_error, error)
        fine = np.ones(1)
    return scale, error


def _best(scales: Doubles, errors: Doubles) -> tuple[Doubles, Doubles]:
    """Of `[rows, candidates]` that of the smallest error in each row."""
    best = errors.argmin(axis=1)[:, None]
    return np.take_along_axis(scales, best, axis=1)[:, 0], np.take_along_axis(errors, best, axis=1)[:, 0]


class _OrderedRows:
    """Rows of numbers from -1 to 1, sorted, with their running sums."""

    def __init__(self, rows: Doubles) -> None:
        self.count, self._elements = rows.shape
        self._squares = np.square(rows).sum(axis=1, keepdims=True)
        ordered = np.sort(rows, axis=1)
        self._sums = np.concatenate([[0.0], np.cumsum(ordered)])
        # one sorted array of all rows: each lies by itself around a multiple of 4
        self._offsets = 4.0 * np.arange(self.count)[:, None]
        self._line = (ordered + self._offsets).ravel()

    def refitted(self, grid: Doubles, scales: Doubles) -> tuple[Doubles, Doubles]:
        """For the codes that each of `scales` `[rows, candidates]` gives on the rising `grid`, the scale of least
        squared error, and that error; a scale that would turn or vanish stays, with its own."""
        edges = np.clip(scales[:, :, None] * ((grid[1:] + grid[:-1]) / 2), -1.5, 1.5) + self._offsets[:, :, None]
        bounds = np.empty((*scales.shape, len(grid) + 1), dtype=np.intp)
        bounds[..., 0] = self._elements * np.arange(self.count)[:, None]
        bounds[..., -1] = bounds[..., 0] + self._elements
        bounds[..., 1:-1] = np.searchsorted(self._line, edges)
        product = np.diff(self._sums[bounds]) @ grid
        square = np.diff(bounds) @ np.square(grid)
        best = np.divide(product, square, out=np.zeros_like(product), where=square > 0)
        best = np.where(best > _SMALLEST_REFITTED, best, scales)
        return best, self._squares - 2 * best * product + np.square(best) * square

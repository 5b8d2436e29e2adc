"""Scales of least squared error.

For each channel (or the whole tensor) minimise `sum (scale * q(w / scale) - w)**2` over the scale, with `q` rounding to
the nearest code of the format.

- The grid runs over clip ratios: `|scale| = ratio * max|w| / 2**(bits-1)`. A scale that clips at `ratio` costs at
  least `(1 - ratio)**2 max|w|**2` at the largest weight; one that does not clip costs at most
  `n * 4**-bits * max|w|**2`. So no optimum lies below `1 - sqrt(n) * 2**-bits`, and at 6 bits and more the grid is
  short [ours]. The largest ratio puts `max|w|` on the highest code.
- Both signs are tried: the lowest code lies one further out than the highest, and a negative scale gives it to
  the positive tail. At 2 bits that is every second useful level.
- Every candidate stands for the best scale of its codes: with codes q fixed that is `<w, q> / <q, q>`, which leaves
  `<w, w> - <w, q>**2 / <q, q>` of the squares. So candidates are compared by `<w, q>**2 / <q, q>`.
- The grid is left where what the scale cuts off, which grows as it falls, is more than the best error of every row.
- A second, fine grid lies between the neighbours of the best point: above 3 bits the error is a smooth valley with a
  fine ripple on it.
- From the best point of that, Lloyd's alternation of codes and scale, which never raises the error.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quantization.formats import Granularity, IntegerFormat
from quantization.storage.half_scales import rounded
from quantization.storage.weights import block_shape

_SMALLEST_RATIO = 1 / 16
_LARGEST_STEP = 1.2  # between neighbouring ratios of the grid
_FEWEST_RATIOS = 4
_FINE_RATIOS = 6  # between the two neighbours of the best one
_ALTERNATIONS = 2
_SHORT_GRID = 8  # ratios of a grid of which all are tried
_SEGMENT = 512  # products that are summed in float32
_BOTH = (1, -1)
_ALL = 1 - 1e-6  # of what is explained
_TILE = 1 << 16  # elements per pass: float32 tiles of this size stay in a core's second-level cache

Floats = NDArray[np.float32]
Sums = NDArray[np.float32] | NDArray[np.float64]


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


def largest_scales(weight: Floats, format_: IntegerFormat, channel_axis: int) -> Floats:
    """Scales that put the largest magnitude on the lowest code, in the shape that `IntegerWeight` takes; 1 for zeros.

    Raises:
        ValueError: as `optimal_scales`.
    """
    shape = share_shape(format_, weight.shape, channel_axis)
    grouped, axes = weight, tuple(axis for axis in range(weight.ndim) if not shape or shape[axis] == 1)
    if format_.granularity is Granularity.BLOCK:
        grouped, axes = weight.reshape(shape[0], format_.block, shape[2]), (1,)
    lowest, highest = (end(grouped, axis=axes, initial=0.0).reshape(shape) for end in (np.min, np.max))
    if not (np.isfinite(lowest).all() and np.isfinite(highest).all()):
        raise ValueError("the weight must be finite float32")
    unit = _unit(lowest, highest, format_)
    scale = np.where(np.abs(unit) >= np.finfo(np.float32).tiny, unit, np.float32(1))
    return rounded(scale) if format_.granularity is Granularity.BLOCK else scale


def _unit(lowest: Floats, highest: Floats, format_: IntegerFormat) -> Floats:
    """The scale of the larger magnitude on the lowest code."""
    return np.asarray(np.ldexp(np.where(highest > -lowest, -highest, -lowest), 1 - format_.bits))


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
    """The scale of each row of `[rows, elements]`, of as many rows at once as a tile has room for."""
    scales = np.ones(len(rows), dtype=np.float32)
    step = max(1, _TILE // max(rows.shape[1], 1))
    for start in range(0, len(rows), step):
        some = rows[start : start + step]
        lowest, highest = np.min(some, axis=1, initial=0.0), np.max(some, axis=1, initial=0.0)
        unit = _unit(lowest, highest, format_)
        # scales are kept to normal float32, of which every product with a code is exact to half an ulp
        alive = np.abs(unit) * _SMALLEST_RATIO >= np.finfo(np.float32).tiny
        if alive.any():
            found = _fitted(some if alive.all() else some[alive], unit[alive], format_)
            scales[start : start + step][alive] = found
    return scales


def _fitted(rows: Floats, unit: Floats, format_: IntegerFormat) -> Floats:
    """Of `rows` `[rows, elements]`, whose largest magnitudes are `unit` times the lowest code."""
    tile = _Tile(rows, unit, format_)
    ratios = _clip_ratios(format_, rows.shape[1])
    explained: list[Sums] = []
    for ratio in ratios:
        if len(ratios) > _SHORT_GRID and ratio < 1 and tile.cuts_off_more(ratio, explained):
            break  # what is cut off alone is more than the best error, and grows
        explained += [fit.explained for fit in tile.fits(ratio, _BOTH)]
    scale = unit * np.repeat(ratios, 2)[(best := np.argmax(explained, axis=0))] * np.where(best % 2, -1, 1)
    tile.move_to(scale.astype(np.float32))
    step = ratios[-2] / ratios[-1]
    ratios = np.append(np.geomspace(1 / step, step, _FINE_RATIOS + 2)[1:-1], 1).astype(np.float32)
    best = np.argmax([fit.explained for ratio in ratios for fit in tile.fits(ratio)], axis=0)
    tile.move_to(tile.scale * ratios[best])
    for _ in range(_ALTERNATIONS):
        [fit] = tile.fits(np.float32(1))
        close = fit.explained >= _ALL * tile.squares()
        tile.move_to(fit.refined())
    if close.any():  # too close to the weights for sums in float32: they may be integers times `unit`
        return np.where(tile.errors(unit) <= tile.errors(tile.scale), unit, tile.scale)
    return tile.scale


def _clip_ratios(format_: IntegerFormat, elements: int) -> Floats:
    """Falling ratios from `max|w|` on the highest code down to the bound in the module's docstring, evenly spaced in
    log, and 1: `max|w|` on the lowest code, which finds weights that are integers already."""
    smallest = max(_SMALLEST_RATIO, 1.0 - math.sqrt(elements) * 2.0**-format_.bits)
    largest = -format_.lowest_code / format_.highest_code
    count = max(_FEWEST_RATIOS, 1 + math.ceil(math.log(largest / smallest) / math.log(_LARGEST_STEP)))
    ratios = np.append(np.geomspace(largest, smallest, count), 1.0)
    return np.sort(ratios)[::-1].astype(np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class _Fit:
    """Codes `q` at a `scale`, some ratio of `unit`, by their `products` `<w, q> / unit` and `squares` `<q, q>`, 1 where
    all codes are 0."""

    scale: Floats
    unit: Floats
    products: Sums
    squares: Sums

    @property
    def explained(self) -> Sums:
        """What the codes leave of the sum of `(w / unit)**2`, with the best scale for them, is all but this."""
        found: Sums = self.products * self.products / self.squares
        return found

    def refined(self) -> Floats:
        """That scale, `<w, q> / <q, q>`; the scale itself where all codes are 0."""
        refined = self.products / self.squares * self.unit
        return np.where(np.abs(refined) >= np.finfo(np.float32).tiny, refined, self.scale).astype(np.float32)


class _Tile:
    """Rows that stay in a core's cache while scales are tried on them, with the arrays that this takes.

    The scales are ratios of one for each row, by which the rows are divided once: numpy multiplies by a number six
    times as fast as by one for each row.

    Args:
        rows: `[rows, elements]`; one row alone may be longer than a tile.
        scale: of each row.
    """

    def __init__(self, rows: Floats, scale: Floats, format_: IntegerFormat) -> None:
        # inner loops run over the longer side: short rows, of blocks, lie side by side
        self._along = 0 if len(rows) > rows.shape[1] else 1
        self._values = _padded(rows) if self._along else np.ascontiguousarray(rows.T)
        self._lowest, self._highest = np.float32(format_.lowest_code), np.float32(format_.highest_code)
        self._divided = np.empty_like(self._values[:, :_TILE])
        self._codes, self._clipped = np.empty_like(self._divided), np.empty_like(self._divided)
        self.move_to(scale)
        # short rows are summed in float32, and there are many of them
        self._sums = np.zeros(len(scale), dtype=np.float64 if self._along else np.float32)

    def move_to(self, scale: Floats) -> None:
        """Ratios are of these scales from here on."""
        self.scale = scale
        self._moved = True

    def fits(self, ratio: np.float32, signs: Sequence[int] = (1,)) -> list[_Fit]:
        """At `ratio` times the scale, times each of the signs."""
        sums = np.zeros((len(signs), 2, len(self.scale)), dtype=self._sums.dtype)
        for divided in self._pieces():
            codes = np.multiply(divided, 1 / ratio, out=self._codes[:, : divided.shape[1]])
            np.rint(codes, out=codes)
            for place, sign in enumerate(signs):
                ends = (self._lowest, self._highest) if sign > 0 else (-self._highest, -self._lowest)
                clipped = np.clip(codes, *ends, out=self._clipped[:, : divided.shape[1]])
                sums[place, 0] += self._dot(divided, clipped)
                sums[place, 1] += self._dot(clipped, clipped)
        return [
            _Fit(self.scale * (sign * ratio), self.scale, sign * products, np.maximum(squares, 1))
            for sign, (products, squares) in zip(signs, sums, strict=True)
        ]

    def cuts_off_more(self, ratio: np.float32, explained: Sequence[Sums]) -> bool:
        """Whether what lies beyond the codes at `ratio`, squared, is more than what the best of `explained` leaves, in
        every row."""
        beyond = np.zeros_like(self._sums)
        largest = -self._lowest * ratio
        for divided in self._pieces():
            excess = np.abs(divided, out=self._codes[:, : divided.shape[1]])
            np.maximum(excess, largest, out=excess)
            excess -= largest
            beyond += self._dot(excess, excess)
        return bool((beyond >= self.squares() - np.max(explained, axis=0)).all())

    def squares(self) -> Sums:
        """Sums of `(w / scale)**2`, `[rows]`."""
        found = np.zeros_like(self._sums)
        for divided in self._pieces():
            found += self._dot(divided, divided)
        return found

    def errors(self, scale: Floats) -> NDArray[np.float64]:
        """Squared errors at `scale`, `[rows]`."""
        across = np.expand_dims(scale, self._along)
        codes = np.clip(np.rint(self._values / across), self._lowest, self._highest)
        return np.asarray(np.square(codes * across - self._values).sum(axis=self._along, dtype=np.float64))

    def _pieces(self) -> Iterator[Floats]:
        """The rows divided by the scale."""
        for start in range(0, max(self._values.shape[1], 1), _TILE):
            values = self._values[:, start : start + _TILE]
            divided = self._divided[:, : values.shape[1]]
            if self._moved or values.shape != self._values.shape:
                np.divide(values, self.scale.item() if len(self.scale) == 1 else self._across(), out=divided)
                self._moved = False
            yield divided

    def _across(self) -> Floats:
        return np.expand_dims(self.scale, self._along)

    def _dot(self, one: Floats, other: Floats) -> Sums:
        """`[rows]`; in float32 over at most `_SEGMENT` elements, from there on in float64."""
        found: Sums
        if not self._along:
            found = np.einsum("ij,ij->j", one, other)
            return found
        segments = (len(one), -1, min(_SEGMENT, max(one.shape[1], 1)))
        found = np.einsum("ijk,ijk->ij", one.reshape(segments), other.reshape(segments)).sum(axis=1, dtype=np.float64)
        return found


def _padded(rows: Floats) -> Floats:
    """With zeros, which every scale keeps, up to whole segments."""
    elements = rows.shape[1]
    if elements <= _SEGMENT or elements % _SEGMENT == 0:
        return np.ascontiguousarray(rows)
    padded = np.zeros((len(rows), math.ceil(elements / _SEGMENT) * _SEGMENT), dtype=np.float32)
    padded[:, :elements] = rows
    return padded

"""Scales of least squared error.

For each channel (or block, or the whole tensor) minimise `sum (scale * q(w / scale) - w)**2` over the scale, with `q`
rounding to the nearest code of the format.

- The grid runs over clip ratios: `|scale| = ratio * max|w| / 2**(bits-1)`. It begins where `max|w|` is on the highest
  code, or above, at `1 + 0.6 / sqrt(n)`: the error of n weights differs from its mean `n scale**2 / 12` by
  `0.9 / sqrt(n)` of it from one scale to the next by chance, so that a scale somewhat too large may have the least.
- It ends where `max|w|` loses by being clipped, `(1 - ratio)**2 max|w|**2`, 3/8 of what all n weights lose by being
  rounded at ratio 1, `n 4**-bits / 3 max|w|**2`. For 16 to 1024 weights of six distributions, also with outliers, the
  mean error was at most 0.11 % above that of a grid that went on [ours].
- Few weights: all ratios of the grid are tried. From one to the next the largest weight moves by a third of a code,
  after which chance begins anew; at many bits by more. Channels of few weights, which are never as many as blocks, get
  four times as many ratios, down to where clipping loses all that rounding does.
- Many weights, whose error is a smooth valley with a fine ripple: a coarse grid, one between the neighbours of its best
  point, and Lloyd's alternation of codes and scale, which never raises the error. The coarse grid is left where what
  the scale cuts off, which grows as it falls, is more than the best error of every group.
- Both signs are tried: the lowest code lies one further out than the highest, and a negative scale gives it to the
  other tail. At 2 bits that is every second useful level. From 4 bits on it seldom helps blocks, and is tried at every
  sixth ratio.
- Every candidate stands for the best scale of its codes: with codes q fixed that is `<w, q> / <q, q>`, which leaves
  `<w, w> - <w, q>**2 / <q, q>` of the squares. So candidates are compared by `<w, q>**2 / <q, q>`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
from numpy.typing import NDArray

from network.graph import ChannelAxis
from quantization.formats import Granularity, IntegerFormat
from quantization.granularity import groups, scale_shape
from quantization.rounding.tiles import TILE, Floats, Room, by_tiles
from quantization.storage.half_scales import round_scales

_SMALLEST_RATIO = 1 / 16
_CHANCE = 0.6  # over sqrt(n): what the largest ratio is above 1 at least
_FEW = 64  # weights that share a scale
_STEP = 2 / 3  # times 2**-bits: logarithm of one ratio over the next, for few weights
_MOST_STEPS = 12
_RARE_SIGN_BITS = 4  # from here on the other sign of a block is tried at every sixth ratio
_OF_CHANNELS = 4  # times as many ratios
_COARSE_STEP = 1.2  # at most
_FEWEST_COARSE = 4
_FINE_RATIOS = 6  # between the two neighbours of the best coarse one
_ALTERNATIONS = 2
_SEGMENT = 512  # products that are summed in float32
_ALL = 1 - 1e-6  # of what is explained

Sums = NDArray[np.float32] | NDArray[np.float64]


def optimal_scales(weight: Floats, format_: IntegerFormat, channel_axis: ChannelAxis) -> Floats:
    """Scales of least squared error.

    Args:
        weight: finite float32.
        format_: symmetric.
        channel_axis: axis of the output channels; unused at tensor granularity.

    Returns:
        An array of the shape that `IntegerWeight` takes. A channel that holds only zeros (or numbers too small for a
        float32 scale) gets scale 1.

    Raises:
        ValueError: the weight is not finite float32, or the axis is not one of its axes, the format is not symmetric,
            or the weight does not divide into its blocks.
    """
    if not format_.symmetric:
        raise ValueError("scales alone are those of symmetric formats; `affine_ranges` finds the others' zero points")
    grouped = groups(finite_float32(weight), format_, channel_axis)
    [scales] = by_tiles(grouped, partial(_fitted, format_=format_), 1)
    scale = scales.reshape(scale_shape(format_, weight.shape, channel_axis))
    return round_scales(scale) if format_.block else scale


def finite_float32(weight: Floats) -> Floats:
    """`weight` itself.

    Raises:
        ValueError: it is not finite float32.
    """
    if weight.dtype != np.float32:
        raise ValueError(f"the weight must be finite float32, got {weight.dtype}")
    if not np.isfinite(weight).all():
        raise ValueError("the weight must be finite float32, and has values that are not finite")
    return weight


def ends(groups: Floats, axis: int) -> tuple[Floats, Floats]:
    """The lowest and the highest of each group and 0, along `axis`."""
    return np.min(groups, axis=axis, initial=0.0), np.max(groups, axis=axis, initial=0.0)


def _fitted(groups: Floats, axis: int, room: Room, format_: IntegerFormat) -> Floats:
    """The scale of each of `groups`, whose elements lie along `axis`: `[groups]`; 1 for zeros."""
    low, high = ends(groups, axis)
    # the scale of the larger magnitude on the lowest code
    unit = np.asarray(np.where(high > -low, -high, -low) * np.float32(2.0 ** (1 - format_.bits)))
    # scales are kept to normal float32, of which every product with a code is exact to half an ulp
    alive = np.abs(unit) * _SMALLEST_RATIO >= np.finfo(np.float32).tiny
    if not alive.any():
        return np.ones_like(unit)
    tile = _Tile(groups, axis, np.where(alive, unit, np.float32(1)), format_, room)
    return np.where(alive, _least(tile, format_), np.float32(1))


def _least(tile: _Tile, format_: IntegerFormat) -> Floats:
    """The scale of least error of each group of a tile that is at the scale of the groups' largest magnitudes."""
    unit = tile.scale
    if tile.elements <= _FEW:
        squares = tile.squares()
        scale, explained = tile.fits(_all_ratios(format_, tile.elements)).refined()
    else:
        ratios = _coarse_ratios(format_, tile.elements)
        tile.move_to(tile.fits_until_cut_off(ratios).best())
        step = ratios[-2] / ratios[-1]
        tile.move_to(tile.fits([*np.geomspace(1 / step, step, _FINE_RATIOS + 2)[1:-1], 1]).best())
        for _ in range(_ALTERNATIONS):
            squares = tile.squares()
            scale, explained = tile.fits([1]).refined()
            tile.move_to(scale)
    if (explained > _ALL * squares).any():
        # so close to the weights that sums in float32 do not tell which is best: they may be integers times `unit`
        return np.where(tile.errors(unit) <= tile.errors(scale), unit, scale)
    return scale


def _grid_ends(format_: IntegerFormat, elements: int) -> tuple[float, float]:
    """The largest and the smallest clip ratio, as the module's docstring has them."""
    largest = max(-format_.lowest_code / format_.highest_code, 1 + _CHANCE / math.sqrt(max(elements, 1)))
    share = elements if _are_channels_of_few(format_, elements) else elements / 8
    return largest, max(_SMALLEST_RATIO, 1 - math.sqrt(share) * 2.0**-format_.bits)


def _are_channels_of_few(format_: IntegerFormat, elements: int) -> bool:
    return elements <= _FEW and format_.granularity is not Granularity.BLOCK


@cache
def _all_ratios(format_: IntegerFormat, elements: int) -> Sequence[float]:
    """Falling, evenly spaced in log above and below 1 (which finds weights that are integers already), and the negative
    ones where the other sign is tried."""
    largest, smallest = _grid_ends(format_, elements)
    span = math.log(largest / smallest)
    of_channels = _are_channels_of_few(format_, elements)
    finer = _OF_CHANNELS if of_channels else 1
    steps = finer * min(max(round(span / (_STEP * 2.0**-format_.bits)), 2), _MOST_STEPS)
    above = min(max(round(steps * math.log(largest) / span), 1), steps - 1)
    ratios = [*np.geomspace(largest, 1, above + 1), *np.geomspace(1, smallest, steps - above + 1)[1:]]
    every = 1 if of_channels or format_.bits < _RARE_SIGN_BITS else 6
    return *ratios, *(-ratio for ratio in ratios[every // 2 :: every])


@cache
def _coarse_ratios(format_: IntegerFormat, elements: int) -> Sequence[float]:
    """Falling, evenly spaced in log, and 1; positive, though both signs are to be tried."""
    largest, smallest = _grid_ends(format_, elements)
    count = max(_FEWEST_COARSE, 1 + math.ceil(math.log(largest / smallest) / math.log(_COARSE_STEP)))
    return tuple(sorted({*np.geomspace(largest, smallest, count), 1.0}, reverse=True))


@dataclass(frozen=True, slots=True, eq=False)
class _Fits:
    """Codes `q` of `[groups]` at signed `ratios` of their scales `unit`, by their `products` `<w, q> / unit` and
    `squares` `<q, q>`, 1 where all codes are 0: `[ratios, groups]`."""

    unit: Floats
    ratios: Floats
    products: Sums
    squares: Sums

    def explained(self) -> Sums:
        """What the codes leave of the sum of `(w / unit)**2`, with the best scale for them, is all but this."""
        explained: Sums = self.products * self.products / self.squares
        return explained

    def best(self) -> Floats:
        """The scale whose codes explain most, `[groups]`."""
        ratios = np.broadcast_to(self.ratios[:, None], self.products.shape)
        return self.unit * self._of_best(ratios, self.explained()).astype(np.float32)

    def refined(self) -> tuple[Floats, Sums]:
        """The best scale of the codes that explain most, `<w, q> / <q, q>` (`unit` where all codes are 0), and how much
        they explain, `[groups]`."""
        explained = self.explained()
        refined = self.unit * self._of_best(self.products / self.squares, explained)
        usable = np.abs(refined) >= np.finfo(np.float32).tiny
        return np.where(usable, refined, self.unit).astype(np.float32), explained.max(axis=0)

    def _of_best(self, values: Sums, explained: Sums) -> Sums:
        """Of `[ratios, groups]` those of the codes that explain most, the largest of equals. (`argmax` over the first
        axis takes three times as long.)"""
        best: Sums = np.where(explained == explained.max(axis=0), values, -np.inf).max(axis=0)
        return best


class _Tile:
    """Groups that stay in a core's cache while scales are tried on them, with the arrays that this takes.

    The scales are ratios of one for each group, by which the groups are divided once: numpy multiplies by a number
    twice as fast as by one for each group.

    Args:
        groups: contiguous, elements along `axis`; one group alone may be longer than a tile.
        scale: of each group.
    """

    def __init__(self, groups: Floats, axis: int, scale: Floats, format_: IntegerFormat, room: Room) -> None:
        self.elements = groups.shape[axis]
        self._along = axis
        self._values = _padded(groups) if axis else groups
        self._lowest, self._highest = np.float32(format_.lowest_code), np.float32(format_.highest_code)
        self._divided, self._codes = room.arrays(2, self._values[:, :TILE].shape)
        self.move_to(scale)

    def move_to(self, scale: Floats) -> None:
        """Ratios are of these scales from here on."""
        self.scale = scale
        self._moved = True

    def fits(self, ratios: Sequence[float]) -> _Fits:
        """At these ratios of the scale."""
        products, squares = self._zeros(len(ratios)), self._zeros(len(ratios))
        for divided in self._pieces():
            codes = self._codes[:, : divided.shape[1]]
            for place, ratio in enumerate(ratios):
                np.multiply(divided, np.float32(1 / ratio), out=codes)
                np.rint(codes, out=codes)
                np.clip(codes, self._lowest, self._highest, out=codes)
                self._add_dot(divided, codes, products[place])
                self._add_dot(codes, codes, squares[place])
        return _Fits(self.scale, np.array(ratios, dtype=np.float32), products, np.maximum(squares, 1))

    def fits_until_cut_off(self, ratios: Sequence[float]) -> _Fits:
        """At falling ratios, with both signs, down to where what lies beyond the codes, squared, is more than what the
        best one leaves, in every group."""
        squares = self.squares()
        most = np.zeros_like(squares)
        fits: list[_Fits] = []
        for ratio in ratios:
            if ratio < 1 and (self._beyond(ratio) >= squares - most).all():
                break
            fits.append(self.fits([ratio, -ratio]))
            most = np.maximum(most, fits[-1].explained().max(axis=0))
        joined = (np.concatenate([getattr(f, name) for f in fits]) for name in ("ratios", "products", "squares"))
        return _Fits(self.scale, *joined)

    def _beyond(self, ratio: float) -> Sums:
        """Squares of what lies beyond the lowest code on either side at a ratio of the scale, `[groups]`."""
        beyond: Sums = self._zeros(1)[0]
        largest = -self._lowest * np.float32(ratio)
        for divided in self._pieces():
            excess = np.abs(divided, out=self._codes[:, : divided.shape[1]])
            np.maximum(excess, largest, out=excess)
            excess -= largest
            self._add_dot(excess, excess, beyond)
        return beyond

    def squares(self) -> Sums:
        """Sums of `(w / scale)**2`, `[groups]`."""
        sums: Sums = self._zeros(1)[0]
        for divided in self._pieces():
            self._add_dot(divided, divided, sums)
        return sums

    def errors(self, scale: Floats) -> NDArray[np.float64]:
        """Squared errors at `scale`, `[groups]`."""
        across = np.expand_dims(scale, self._along)
        codes = np.clip(np.rint(self._values / across), self._lowest, self._highest)
        return np.asarray(np.square(codes * across - self._values).sum(axis=self._along, dtype=np.float64))

    def _pieces(self) -> Iterator[Floats]:
        """The groups divided by the scale."""
        for start in range(0, max(self._values.shape[1], 1), TILE):
            values = self._values[:, start : start + TILE]
            divided = self._divided[:, : values.shape[1]]
            if self._moved or values.shape != self._values.shape:
                across = self.scale.item() if len(self.scale) == 1 else np.expand_dims(self.scale, self._along)
                np.divide(values, across, out=divided)
                self._moved = False
            yield divided

    def _zeros(self, ratios: int) -> Sums:
        """`[ratios, groups]`; short groups are summed in float32, and there are many."""
        shape = (ratios, len(self.scale))
        is_short = not self._along and self.elements <= _SEGMENT
        return np.zeros(shape, dtype=np.float32) if is_short else np.zeros(shape, dtype=np.float64)

    def _add_dot(self, one: Floats, other: Floats, sums: Sums) -> None:
        """To `[groups]`; in float32 over at most `_SEGMENT` elements, from there on in float64."""
        if not self._along:
            for start in range(0, len(one), _SEGMENT):
                some = slice(start, start + _SEGMENT)
                sums += np.einsum("ij,ij->j", one[some], other[some])
            return
        segments = (len(one), -1, min(_SEGMENT, max(one.shape[1], 1)))
        dots = np.einsum("ijk,ijk->ij", one.reshape(segments), other.reshape(segments))
        sums += dots.sum(axis=1, dtype=np.float64)


def _padded(groups: Floats) -> Floats:
    """With zeros, which every scale keeps, up to whole segments."""
    elements = groups.shape[1]
    if elements <= _SEGMENT or elements % _SEGMENT == 0:
        return groups
    padded = np.zeros((len(groups), math.ceil(elements / _SEGMENT) * _SEGMENT), dtype=np.float32)
    padded[:, :elements] = groups
    return padded

"""Ranges of activations from streamed values.

A `Histogram` sees every batch once and keeps 4,096 counts, however many samples there are. Where a batch goes beyond
its range, the bins are made twice as wide, in place, as often as it takes; the extremes themselves are kept exactly.
Exact zeros (of Relu, of padding) are counted apart: every format represents them, so they say nothing about a range.
Nor do NaN, infinities and numbers near the largest float, which are masks: they do not count, and where they are
negative the range ends `MASK_MARGIN` below the others, so that what was masked still is lower than they are.

Three ways to a range:

- min-max: nothing is clipped.
- percentile: the narrowest range from the lowest to the highest of all values but `1 - 99.99 %` at each end.
- mse: the range of least squared rounding and clipping error over the histogram [ours: both ends are searched
  together, on a grid of clip ratios and then on a finer one around the best]. The default: at 4 bits min-max spends
  its few values on outliers.
"""

from __future__ import annotations

import math
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from quantization.activations.quantized import Floats, QuantizedActivation
from quantization.errors import ActivationsNotFinite
from quantization.formats import UnsignedFormat

BINS = 4096
PERCENTILE = 99.99
MASK = 2.0**100
"""Beyond it a number is a mask."""
MASK_MARGIN = 16.0
"""A Softmax gives what lies that much below the lowest score a share of 1e-7 of what it gives to that."""
_COARSE = np.linspace(1.0, 0.04, 13)  # clip ratios, of each end
_FINE = np.linspace(-0.08, 0.08, 9)  # around the best of them: one step of the coarse grid to each side
_CHUNK = 1 << 16  # values that are sorted into bins at once


class RangeMethod(StrEnum):
    """How a range follows from the values seen."""

    MINMAX = "minmax"
    PERCENTILE = "percentile"
    MSE = "mse"


class Histogram:
    """Counts of one tensor's values.

    Args:
        name: of the tensor, for errors.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self.minimum = math.inf
        self.maximum = -math.inf
        self.zeros = 0
        self.masked = False
        self._odd = False
        self.counts: NDArray[np.int64] = np.zeros(BINS, dtype=np.int64)
        self._low = 0.0
        self._width = 0.0

    def add(self, values: Floats) -> None:
        """Count one batch."""
        flat = values.reshape(-1)
        if flat.size == 0:
            return
        low, high = float(flat.min()), float(flat.max())
        if not (low >= -MASK and high <= MASK):
            self.masked |= bool((flat < -MASK).any())
            self._odd = True
            flat = flat[np.abs(flat) <= MASK]
            if flat.size == 0:
                return
            low, high = float(flat.min()), float(flat.max())
        self.minimum, self.maximum = min(self.minimum, low), max(self.maximum, high)
        for start in range(0, flat.size, _CHUNK):
            part = flat[start : start + _CHUNK]
            part = part[part != 0]
            self.zeros += min(_CHUNK, flat.size - start) - part.size
            if part.size:
                self._cover(low, high)
                places = ((part - np.float32(self._low)) * np.float32(1 / self._width)).astype(np.int32)
                np.clip(places, 0, BINS - 1, out=places)
                self.counts += np.bincount(places, minlength=BINS)

    @property
    def centres(self) -> NDArray[np.float64]:
        """The middle of each bin."""
        return np.asarray(self._low + (np.arange(BINS) + 0.5) * self._width, dtype=np.float64)

    def require_values(self) -> None:
        """Refuse to say anything where no value counted.

        Raises:
            ActivationsNotFinite: every value was NaN, infinite or a mask.
            ValueError: there was none.
        """
        if self.minimum <= self.maximum:
            return
        if self._odd:
            raise ActivationsNotFinite(
                f"the calibration samples make all values of {self._name} infinite or no number;"
                " check the samples' scale and preprocessing"
            )
        raise ValueError("a range needs values, and the histogram has seen none")

    def _cover(self, low: float, high: float) -> None:
        """Bins from `low` to `high`, which are not both 0."""
        if self._width == 0.0:
            # a bin of at least the spacing of float32 there, so that its number can be computed in float32
            self._low = low
            self._width = max((high - low) / (BINS - 1), max(abs(low), abs(high)) * 2.0**-20, 2.0**-120)
        while self._low + BINS * self._width < high:
            self._merge(0)
        while self._low > low:
            self._low -= BINS * self._width
            self._merge(BINS // 2)

    def _merge(self, start: int) -> None:
        """Twice the width: the bins so far become the half that begins at `start`."""
        merged = self.counts.reshape(-1, 2).sum(axis=1)
        self.counts = np.zeros(BINS, dtype=np.int64)
        self.counts[start : start + BINS // 2] = merged
        self._width *= 2


def calibrated(
    histogram: Histogram, format_: UnsignedFormat, method: RangeMethod = RangeMethod.MSE
) -> QuantizedActivation:
    """`format_` with the range that `method` finds in the values seen; a tensor that was always zero gets scale 1.

    Raises:
        ActivationsNotFinite: all values that the histogram has seen were NaN, infinite or masks.
        ValueError: it has seen none.
    """
    histogram.require_values()
    low, high = min(histogram.minimum, 0.0), max(histogram.maximum, 0.0)
    if histogram.masked:
        return QuantizedActivation.covering(format_, low - MASK_MARGIN, high)
    match method:
        case RangeMethod.PERCENTILE:
            low, high = _percentile(histogram, low, high)
        case RangeMethod.MSE:
            return _least_squares(histogram, format_, low, high)
    return QuantizedActivation.covering(format_, low, high)


def _percentile(histogram: Histogram, low: float, high: float) -> tuple[float, float]:
    """The values below and above which `100 - PERCENTILE` percent lie, within the extremes."""
    points = np.append(histogram.centres, 0.0)
    counts = np.append(histogram.counts, histogram.zeros)
    order = np.argsort(points, kind="stable")
    points, total = points[order], counts[order].cumsum()
    outside = (1 - PERCENTILE / 100) * total[-1]
    lowest = points[np.searchsorted(total, outside, side="right")]
    highest = points[min(np.searchsorted(total, total[-1] - outside), len(points) - 1)]
    return max(low, min(float(lowest), 0.0)), min(high, max(float(highest), 0.0))


def _least_squares(histogram: Histogram, format_: UnsignedFormat, low: float, high: float) -> QuantizedActivation:
    seen = histogram.counts > 0
    centres, counts = histogram.centres[seen].clip(low, high).astype(np.float32), histogram.counts[seen]

    def best(lows: NDArray[np.float64], highs: NDArray[np.float64]) -> tuple[QuantizedActivation, float, float]:
        tried = [
            (QuantizedActivation.covering(format_, low * a, high * b), a, b)
            for a in (lows if low < 0 else [1.0])
            for b in (highs if high > 0 else [1.0])
        ]
        errors = [float(np.square(q.apply(centres) - centres, dtype=np.float64) @ counts) for q, _, _ in tried]
        activation, a, b = tried[int(np.argmin(errors))]
        return activation, float(a), float(b)

    _, a, b = best(_COARSE, _COARSE)
    # the best so far is in the second grid too, and the widest range comes first: a tie clips nothing
    activation, _, _ = best((a - _FINE).clip(0.01, 1.0), (b - _FINE).clip(0.01, 1.0))
    return activation

"""Weighted k-means on a line, many rows at once.

Of values x with masses h it seeks at most k centers of least `sum h_i (x_i - nearest center)**2`. On a line clusters
are runs of the sorted values, so that dynamic programming over where runs end finds the best ones (Wu, "Optimal
quantization by matrix searching", Journal of Algorithms 12, 1991; Wang and Song, Ckmeans.1d.dp, R Journal 3, 2011).

Rows of up to `BINS` values are solved exactly. Of longer rows neighbours share a bin, and runs of bins are solved
exactly; Lloyd's steps then move the ends of the runs from value to value until they stay. A step reads only prefix
sums, and costs `k log n` however long the row is.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from quantization.rounding.tiles import parts

BINS = 128
_MOST_STEPS = 100
_CHUNK = 1 << 18  # elements of rows that are worked on at once
_SQUARES = 1 << 17  # of bins, likewise

Doubles = NDArray[np.float64]
Places = NDArray[np.intp]


def centers(rows: NDArray[np.float32], masses: NDArray[np.float32] | None, count: int) -> Doubles:
    """The centers `[R, count]` of every row, ascending; some are equal where fewer serve as well.

    Args:
        rows: finite, `[R, n]`, n at least 1.
        masses: at least 0, of the same shape, or None where all are 1. A row without any mass is taken as if all
            its values had the same.
    """
    of_rows = np.empty((len(rows), count))
    for part in parts(len(rows), rows.shape[1], _CHUNK):
        of_rows[part] = _centers(rows[part], None if masses is None else masses[part], count)
    return of_rows


def _centers(rows: NDArray[np.float32], masses: NDArray[np.float32] | None, count: int) -> Doubles:
    if masses is None:
        values = np.sort(rows, axis=1).astype(np.float64)
        heavy = np.ones_like(values)
    else:
        order = np.argsort(rows, axis=1)
        values = np.take_along_axis(rows, order, axis=1).astype(np.float64)
        heavy = np.take_along_axis(masses, order, axis=1).astype(np.float64)
        heavy[~heavy.any(axis=1)] = 1
        heavy /= heavy.max(axis=1, keepdims=True)  # their products stay in range
    middle = (heavy * values).sum(axis=1, keepdims=True) / heavy.sum(axis=1, keepdims=True)
    values -= middle  # so that differences of prefix sums keep their digits
    mass, moment = _prefix_sums(heavy), _prefix_sums(heavy * values)
    bins = _bins(values)
    ends = np.take_along_axis(bins, _best_runs(_at(mass, bins), _at(moment, bins), count), axis=1)
    means = _means(mass, moment, ends)
    if rows.shape[1] > BINS:
        for _ in range(_MOST_STEPS):
            moved = _ends(values, (means[:, 1:] + means[:, :-1]) / 2)
            if np.array_equal(moved, ends):
                break
            ends = moved
            means = _means(mass, moment, ends)
    means += middle
    return means


def _prefix_sums(terms: Doubles) -> Doubles:
    """`[R, n + 1]`: the sum of the first 0, 1, ... n of every row."""
    sums = np.zeros((len(terms), terms.shape[1] + 1))
    np.cumsum(terms, axis=1, out=sums[:, 1:])
    return sums


def _at(sums: Doubles, places: Places) -> Doubles:
    return np.take_along_axis(sums, places, axis=1)


def _bins(values: Doubles) -> Places:
    """Where bins of the sorted `values` end, `[R, bins + 1]` with a 0 before the first: each value its own bin, or
    `BINS` that are narrow where values are many and where they are far apart."""
    rows, n = values.shape
    if n <= BINS:
        return np.broadcast_to(np.arange(n + 1), (rows, n + 1))
    width = values[:, -1:] - values[:, :1]
    spread = np.divide(values - values[:, :1], width, out=np.zeros_like(values), where=width > 0)
    spread += np.arange(n) / n
    bins = np.zeros((rows, BINS + 1), dtype=np.intp)
    bins[:, -1] = n
    bins[:, 1:-1] = _ends(spread, np.broadcast_to(np.arange(1, BINS) * (2 / BINS), (rows, BINS - 1)))[:, 1:-1]
    return bins


def _ends(values: Doubles, limits: Doubles) -> Places:
    """How many of the sorted `values` `[R, n]` lie at or below each of `limits` `[R, m]`, with 0 before and n behind
    these numbers: `[R, m + 2]`."""
    rows, n = values.shape
    low = np.zeros(limits.shape, dtype=np.intp)
    high = np.full(limits.shape, n, dtype=np.intp)
    for _ in range(n.bit_length()):
        middle = (low + high) >> 1
        # where low has met high, at n perhaps, the value read in its stead changes nothing
        below = np.take_along_axis(values, np.minimum(middle, n - 1), axis=1) <= limits
        below &= low < high
        low = np.where(below, middle + 1, low)
        high = np.where(below, high, middle)
    return np.concatenate([np.zeros((rows, 1), dtype=np.intp), low, np.full((rows, 1), n, dtype=np.intp)], axis=1)


def _means(mass: Doubles, moment: Doubles, ends: Places) -> Doubles:
    """The mean of each run `ends[i]..ends[i + 1]`; that of the run before it where it has no mass, or behind."""
    masses = np.diff(_at(mass, ends), axis=1)
    moments = np.diff(_at(moment, ends), axis=1)
    means = np.divide(moments, masses, out=np.full_like(masses, -math.inf), where=masses > 0)
    np.maximum.accumulate(means, axis=1, out=means)
    first = np.where(np.isfinite(means), means, math.inf).min(axis=1, keepdims=True)
    np.maximum(means, first, out=means)
    return means


def _best_runs(mass: Doubles, moment: Doubles, count: int) -> Places:
    """Where at most `count` runs of bins end that have the least squared error together, `[R, count + 1]`.

    Of a run the squared error is what its values have about 0, less `moment**2 / mass`: the sum of these is to be as
    large as can be.

    Args:
        mass, moment: prefix sums over bins, `[R, bins + 1]`.
    """
    ends = np.zeros((len(mass), count + 1), dtype=np.intp)
    ends[:, -1] = mass.shape[1] - 1
    for part in parts(len(mass), mass.shape[1] ** 2, _SQUARES):
        _fill_ends(ends[part], _gains(mass[part], moment[part]))
    return ends


def _gains(mass: Doubles, moment: Doubles) -> Doubles:
    """`moment**2 / mass` of the run of bins from j to i, at `[R, i, j]`; minus infinity where i lies before j."""
    masses = mass[:, :, None] - mass[:, None, :]
    gains = np.square(moment[:, :, None] - moment[:, None, :])
    np.divide(gains, masses, out=gains, where=masses > 0)
    gains[masses == 0] = 0  # prefix sums are equal where nothing was added
    gains[:, *np.triu_indices(gains.shape[1], 1)] = -math.inf
    return gains


def _fill_ends(ends: Places, gains: Doubles) -> None:
    best = gains[:, :, 0]  # of one run up to each bin
    starts = []
    for _ in range(ends.shape[1] - 2):
        sums = gains + best[:, None, :]
        starts.append(sums.argmax(axis=2))  # of the last run
        best = np.take_along_axis(sums, starts[-1][:, :, None], axis=2)[:, :, 0]
    for run in range(len(starts), 0, -1):
        ends[:, run] = np.take_along_axis(starts[run - 1], ends[:, run + 1, None], axis=1)[:, 0]

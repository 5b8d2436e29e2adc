"""Codes of tuples that are read in parallel: the number of a bucket, of fixed length, and the place within it.

A symbol is a tuple of small magnitudes, numbered by its digits. Symbols are ranked by the sum of what their magnitudes
cost, and by number where these are equal:

    cost(0) = 0,    cost(m) = a m**2 + b m - 1 bit

Gaussian numbers have b = 0 and Laplace numbers a = 0; the bit is the sign, which is written apart: every magnitude but
0 stands for two numbers. With a and b fitted to what occurs, symbols are in nearly the order of their probability.

Ranks are cut into 16 buckets of `2**k` symbols each, and a symbol is written as the number of its bucket, in 4 bits,
and its place there, in k bits, as Deflate writes distances. Within a bucket the symbols are about equally likely, and
buckets are cut so that they are, too. [A million weights, Gaussian, Laplace or Student's t, 1.2 to 4 bits: 0.9 to 1.8 %
over the entropy, signs included.]

A prefix code of the same tuples is 1 % shorter, but where a codeword begins is known only when those before it are
read. Here all lengths stand at fixed places, so that one sum over them gives the place of everything.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

BUCKETS = 16
MOST_BITS = 15
"""Of a place within a bucket: the most that 4 bits of the header say, and with the 7 before it within three bytes."""
UNITS = 64
"""Of a cost to a bit."""

_NEVER = 1 << 50
_BYTE = 255

Integers = NDArray[np.int64]


class Costs(NamedTuple):
    """a and b, in `UNITS`, a byte each."""

    square: int
    linear: int


@dataclass(frozen=True, slots=True)
class Tuples:
    """Those of `size` magnitudes up to `highest`."""

    size: int
    highest: int

    @property
    def base(self) -> int:
        """How many values a magnitude has."""
        return self.highest + 1

    @property
    def count(self) -> int:
        return int(self.base**self.size)

    def numbers_of(self, magnitudes: NDArray[np.integer]) -> Integers:
        """Of the tuples `[size, tuples]`, of integers of any width."""
        numbers = np.zeros(magnitudes.shape[1], dtype=np.int64)
        for place, own in enumerate(magnitudes):
            numbers += own * np.int64(self.base**place)
        return numbers


def fitted_costs(counts: Integers) -> Costs:
    """What magnitudes cost that occur so often, from 0 on: the a and b whose costs are closest to their bits, by least
    squares over all that occur."""
    magnitudes = np.flatnonzero(counts[1:]) + 1
    if not magnitudes.size:
        return Costs(_BYTE, _BYTE)
    roots = np.sqrt(counts[magnitudes] / counts.sum())
    bits = np.log2(max(counts[0], 0.5) / counts[magnitudes]) + 1
    powers = np.stack([np.square(magnitudes), magnitudes], axis=1)
    fitted, _ = nnls(powers * roots[:, None], bits * roots)
    square, linear = np.rint(UNITS * fitted).clip(0, _BYTE).astype(int).tolist()
    return Costs(square, linear)


@lru_cache(maxsize=64)
def ranks(tuples: Tuples, costs: Costs) -> Integers:
    """By number."""
    squares, sums, signs = _sums(tuples)
    order = np.argsort(costs.square * squares + costs.linear * sums - UNITS * signs, kind="stable")
    placed = np.empty(tuples.count, dtype=np.int64)
    placed[order] = np.arange(tuples.count)
    placed.setflags(write=False)
    return placed


@cache
def _sums(tuples: Tuples) -> tuple[Integers, Integers, Integers]:
    """Of the squares, of the magnitudes, and of the signs that each tuple has."""
    digits = np.arange(tuples.count) // tuples.base ** np.arange(tuples.size)[:, None] % tuples.base
    return np.square(digits).sum(axis=0), digits.sum(axis=0), np.count_nonzero(digits, axis=0)


def best_buckets(counts: Integers) -> tuple[Integers, int]:
    """Bits of places in the buckets, `[BUCKETS]`, with which symbols that occur so often, by rank, take the fewest, and
    how many they take there all together. By dynamic programming over where each bucket ends. Codes that fitted are
    encoded next, so that the last answers are kept."""
    return _best_buckets(counts.astype(np.int64).tobytes())


@lru_cache(maxsize=64)
def _best_buckets(counted: bytes) -> tuple[Integers, int]:
    counts = np.frombuffer(counted, dtype=np.int64)
    (occurring,) = np.nonzero(counts)
    last = int(occurring[-1]) + 1 if occurring.size else 1
    below = np.concatenate([[0], np.cumsum(counts[:last])])
    fewest = np.full(last + 1, _NEVER)  # for all ranks below, in the buckets so far
    fewest[0] = 0
    widths = np.zeros((BUCKETS, last + 1), dtype=np.int64)
    begins = np.zeros((BUCKETS, last + 1), dtype=np.int64)
    for bucket in range(BUCKETS):
        before, fewest = fewest, np.full(last + 1, _NEVER)
        for bits in range(MOST_BITS + 1):
            size = 1 << bits
            if size <= last:
                taken = before[:-size] + bits * (below[size:] - below[:-size])
                (better,) = np.nonzero(taken < fewest[size:])
                fewest[better + size] = taken[better]
                widths[bucket, better + size] = bits
                begins[bucket, better + size] = better
            first = max(0, last - size)  # a bucket may reach behind the last rank
            taken = before[first:] + bits * (below[last] - below[first:])
            place = int(taken.argmin())
            if taken[place] < fewest[last]:
                fewest[last], widths[bucket, last], begins[bucket, last] = taken[place], bits, first + place
    chosen = np.zeros(BUCKETS, dtype=np.int64)
    end = last
    for bucket in reversed(range(BUCKETS)):
        chosen[bucket], end = widths[bucket, end], begins[bucket, end]
    chosen.setflags(write=False)
    return chosen, int(fewest[last])

"""Codes of tuples that are read in parallel: the number of a bucket, of fixed length, and the place within it.

A symbol is a tuple of small integers, numbered by its digits: `2 v - 1` for `v > 0`, `-2 v` else. Symbols are ranked
by the sum of their `|v| (|v| + 3)`, and by number where these are equal: tuples of Gaussian and of Laplace numbers in
nearly the order of their probability. Ranks are cut into 16 buckets of `2**k` symbols each, and a symbol is written as
the number of its bucket, in 4 bits, and its place there, in k bits, as Deflate writes distances. Within a bucket the
symbols are about equally likely, and buckets are cut so that they are, too. [A million weights, Gaussian or Laplace: 1
to 3 % over the entropy from 1.4 bits on; at 1 bit 7 %, as the most frequent of all tuples that a table has room for
deserves fewer than 4 bits.]

A prefix code of the same tuples is 1 % shorter, but where a codeword begins is known only when those before it are
read. Here all lengths stand at fixed places, so that one sum over them gives the place of everything.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np
from numpy.typing import NDArray

BUCKETS = 16
MOST_BITS = 15
"""Of a place within a bucket: the most that 4 bits of the header say, and with the 7 before it within three bytes."""

_NEVER = 1 << 50

Integers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Tuples:
    """Those of `size` integers of magnitudes up to `highest`."""

    size: int
    highest: int

    @property
    def base(self) -> int:
        """How many values an integer has."""
        return 2 * self.highest + 1

    @property
    def count(self) -> int:
        return int(self.base**self.size)

    def ranks_of(self, codes: NDArray[np.int8]) -> Integers:
        """Of the tuples `[size, tuples]`."""
        values = codes.astype(np.int64)
        digits = np.where(values > 0, 2 * values - 1, -2 * values)
        return np.asarray(ranks(self)[self.base ** np.arange(self.size) @ digits])


@cache
def ranks(tuples: Tuples) -> Integers:
    """By number."""
    digits = np.arange(tuples.count) // tuples.base ** np.arange(tuples.size)[:, None] % tuples.base
    magnitudes = (digits + 1) // 2
    order = np.argsort((magnitudes * (magnitudes + 3)).sum(axis=0), kind="stable")
    placed = np.empty(tuples.count, dtype=np.int64)
    placed[order] = np.arange(tuples.count)
    return placed


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

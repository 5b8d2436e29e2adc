"""Buckets: every symbol that occurs has its place, as few bits as any cut takes, and close to the entropy."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from quantization.storage.buckets import BUCKETS, MOST_BITS, Tuples, best_buckets, ranks

ALL = [Tuples(6, 2), Tuples(5, 2), Tuples(4, 3), Tuples(3, 7), Tuples(2, 12), Tuples(2, 22)]


def _taken(counts: np.ndarray, widths: np.ndarray) -> int:
    """Bits of all places, symbol by symbol."""
    bits = np.repeat(widths, 1 << widths)
    assert len(bits) >= len(np.trim_zeros(counts, "b"))
    return int(counts @ bits[: len(counts)]) if len(bits) >= len(counts) else int(counts[: len(bits)] @ bits)


@pytest.mark.parametrize("seed", range(20))
def test_no_other_cut_takes_fewer_bits(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quantization.storage.buckets.BUCKETS", 4)
    generator = np.random.default_rng(seed)
    counts = generator.integers(0, 100, 12) * (generator.random(12) < 0.8)
    widths, bits = best_buckets(counts)
    assert _taken(counts, widths) == bits
    others = [np.array(cut) for cut in itertools.product(range(5), repeat=4) if sum(1 << k for k in cut) >= 12]
    assert bits <= min(_taken(counts, cut) for cut in others)


@pytest.mark.parametrize(
    "counts",
    [np.zeros(40, int), np.array([7]), np.eye(1, 3000, 2999, dtype=int)[0], np.ones(15625, int), np.arange(17)],
    ids=["none", "one", "the last alone", "all alike", "rising"],
)
def test_extremes_have_places(counts: np.ndarray) -> None:
    widths, bits = best_buckets(counts)
    assert len(widths) == BUCKETS
    assert widths.max() <= MOST_BITS
    assert _taken(counts, widths) == bits


@pytest.mark.parametrize("tuples", ALL, ids=str)
def test_every_tuple_has_a_rank_and_small_ones_come_first(tuples: Tuples) -> None:
    values = np.arange(-tuples.highest, tuples.highest + 1, dtype=np.int8)
    every = np.stack([axis.ravel() for axis in np.meshgrid(*[values] * tuples.size)])
    placed = tuples.ranks_of(every)
    assert sorted(placed) == list(range(tuples.count)) == sorted(ranks(tuples))
    magnitudes = np.abs(every.astype(np.int64))
    costs = (magnitudes * (magnitudes + 3)).sum(axis=0)[np.argsort(placed)]
    assert costs[0] == 0
    assert (np.diff(costs) >= 0).all()

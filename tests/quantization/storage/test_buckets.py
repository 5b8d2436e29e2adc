"""Buckets: every symbol that occurs has its place, as few bits as any cut takes, and close to the entropy."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest

from quantization.storage.buckets import BUCKETS, MOST_BITS, UNITS, Costs, Tuples, best_buckets, fitted_costs, ranks

ALL = [Tuples(8, 2), Tuples(6, 3), Tuples(5, 5), Tuples(4, 8), Tuples(4, 9), Tuples(3, 22)]


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


@pytest.mark.parametrize("costs", [Costs(40, 0), Costs(0, 90), Costs(3, 1), Costs(255, 255)], ids=str)
@pytest.mark.parametrize("tuples", ALL, ids=str)
def test_every_tuple_has_a_rank_and_cheap_ones_come_first(tuples: Tuples, costs: Costs) -> None:
    values = np.arange(tuples.highest + 1)
    every = np.stack([axis.ravel() for axis in np.meshgrid(*[values] * tuples.size)])
    numbers = tuples.numbers_of(every)
    placed = ranks(tuples, costs)[numbers]
    assert sorted(placed) == list(range(tuples.count)) == sorted(numbers)
    told = (costs.square * every**2 + costs.linear * every - UNITS * (every > 0)).sum(axis=0)
    keys = np.stack([told, numbers], axis=1)[np.argsort(placed)].tolist()
    assert keys == sorted(keys)


@pytest.mark.parametrize(
    ("values", "costs"),
    [("normal", lambda a: (a, 0.0)), ("laplace", lambda b: (0.0, b))],
    ids=["normal", "laplace"],
)
def test_costs_are_those_of_the_distribution(values: str, costs: Callable[[float], tuple[float, float]]) -> None:
    """Rounded finely, a density of exp(-m**2 / 2 s**2), or exp(-m / s), has bits in proportion to m**2, or m."""
    drawn = np.rint(getattr(np.random.default_rng(0), values)(0, 4.0, 1 << 20)).astype(np.int64)
    fitted = fitted_costs(np.bincount(np.abs(drawn)))
    slope = {"normal": 1 / 32, "laplace": 1 / 4}[values] / np.log(2)
    np.testing.assert_allclose(fitted, np.multiply(UNITS, costs(slope)), atol=2)


@pytest.mark.parametrize("counts", [[5], [0, 0, 9], [1, 1 << 40], [1 << 40, 0, 1], [0, 7, 7, 7]], ids=str)
def test_costs_of_extremes_are_bytes(counts: list[int]) -> None:
    assert all(0 <= cost <= 255 for cost in fitted_costs(np.array(counts)))

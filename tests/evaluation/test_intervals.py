"""Intervals: the algebra against brute-force likelihood, the coverage by enumeration and by seeded simulation."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.stats import binom, multinomial, norm

from evaluation.intervals import (
    Interval,
    bootstrap_interval,
    difference_interval,
    proportion_interval,
    relative_interval,
)

Z = float(norm.ppf(0.975))


def log(count: int, chance: float) -> float:
    return 0.0 if count == 0 else count * math.log(chance) if chance > 0 else -math.inf


def score_of_difference(lost: int, won: int, n: int, drop: float) -> float:
    """Tango's statistic with the likeliest chance found by a search."""
    low, high = max(0.0, -drop), (1 - drop) / 2

    def likelihood(q: float) -> float:
        return -(log(lost, q + drop) + log(won, q) + log(n - lost - won, 1 - 2 * q - drop))

    grid = np.linspace(low, high, 2001)
    start = int(np.argmin([likelihood(q) for q in grid]))
    bracket = grid[max(start - 1, 0)], grid[min(start + 1, 2000)]
    q = minimize_scalar(likelihood, bounds=bracket, method="bounded", options={"xatol": 1e-13}).x
    return (lost - won - n * drop) / math.sqrt(n * (2 * q + drop * (1 - drop)))


@given(n=st.integers(1, 300), data=st.data(), level=st.sampled_from([0.8, 0.95, 0.999]))
def test_ends_of_the_difference_are_where_the_score_test_begins_to_reject(
    n: int, data: st.DataObject, level: float
) -> None:
    lost = data.draw(st.integers(0, n))
    won = data.draw(st.integers(0, n - lost))
    interval = difference_interval(lost, won, n, level)
    z = float(norm.ppf(1 - (1 - level) / 2))
    assert -1 <= interval.low <= (lost - won) / n <= interval.high <= 1
    if interval.low > -1:
        assert score_of_difference(lost, won, n, interval.low) == pytest.approx(z, rel=1e-3)
    if interval.high < 1:
        assert score_of_difference(lost, won, n, interval.high) == pytest.approx(-z, rel=1e-3)


@given(n=st.integers(1, 10_000), data=st.data())
def test_the_difference_is_symmetric_and_grows_with_the_level(n: int, data: st.DataObject) -> None:
    lost = data.draw(st.integers(0, n))
    won = data.draw(st.integers(0, n - lost))
    interval, mirrored = difference_interval(lost, won, n, 0.95), difference_interval(won, lost, n, 0.95)
    assert interval.low == pytest.approx(-mirrored.high, abs=1e-9)
    wider = difference_interval(lost, won, n, 0.99)
    assert wider.low <= interval.low + 1e-9
    assert interval.high <= wider.high + 1e-9


def test_without_any_change_the_difference_ends_where_algebra_says() -> None:
    interval = difference_interval(0, 0, 44, 0.95)
    assert interval.high == pytest.approx(Z * Z / (44 + Z * Z))
    assert interval.low == -interval.high


def enumerated_misses(n: int, losing: float, winning: float, find: Callable[..., Interval]) -> tuple[float, float]:
    """Exact chances that the lower and the upper end miss the truth, over all outcomes."""
    below = above = 0.0
    chances = multinomial(n, [losing, winning, 1 - losing - winning])
    for lost in range(n + 1):
        for won in range(n + 1 - lost):
            chance = chances.pmf([lost, won, n - lost - won])
            if chance > 1e-9:
                interval = find(lost, won, n, 0.95)
                below += chance * (losing - winning < interval.low)
                above += chance * (losing - winning > interval.high)
    return below, above


@pytest.mark.parametrize("n", [50, 200])
@pytest.mark.parametrize("chances", [(0.02, 0.0), (0.02, 0.01), (0.05, 0.05), (0.1, 0.02), (0.005, 0.001), (0.2, 0.1)])
def test_the_difference_covers(n: int, chances: tuple[float, float]) -> None:
    below, above = enumerated_misses(n, *chances, difference_interval)
    assert below <= 0.05
    assert above <= 0.027  # the end that promises depend on


def score_of_ratio(lost: int, won: int, right: int, n: int, ratio: float) -> float:
    """The ratio's score statistic with the likeliest chances found by a search over the two free ones."""
    both, never = right - lost, n - right - won

    def chances(u: float, stay: float) -> tuple[float, float, float, float]:
        return stay, ratio * u - stay, u - stay, 1 - u - ratio * u + stay

    def best_stay(u: float) -> tuple[float, float]:
        low, high = max(0.0, u + ratio * u - 1), min(u, ratio * u)

        def cost(stay: float) -> float:
            p = chances(u, stay)
            return -(log(both, p[0]) + log(won, p[1]) + log(lost, p[2]) + log(never, p[3]))

        found = minimize_scalar(cost, bounds=(low, high), method="bounded", options={"xatol": 1e-14})
        return float(found.fun), float(found.x)

    grid = np.linspace(1e-6, min(1.0, 1 / ratio) - 1e-9, 400)
    start = int(np.argmin([best_stay(u)[0] for u in grid]))
    bracket = grid[max(start - 1, 0)], grid[min(start + 1, len(grid) - 1)]
    u = minimize_scalar(lambda v: best_stay(v)[0], bounds=bracket, method="bounded", options={"xatol": 1e-13}).x
    twice, gained, dropped, _ = chances(u, best_stay(u)[1])
    variance = n * (twice * (1 - ratio) ** 2 + gained + ratio**2 * dropped)
    return (right - lost + won - ratio * right) / math.sqrt(variance)


@pytest.mark.parametrize(
    ("lost", "won", "right", "n"), [(9, 3, 80, 100), (4, 0, 30, 50), (0, 5, 30, 50), (20, 6, 25, 100), (0, 0, 40, 60)]
)
def test_ends_of_the_ratio_are_where_the_score_test_begins_to_reject(lost: int, won: int, right: int, n: int) -> None:
    interval = relative_interval(lost, won, right, n, 0.95)
    assert interval.low <= (lost - won) / right <= interval.high
    assert score_of_ratio(lost, won, right, n, 1 - interval.high) == pytest.approx(Z, rel=5e-3)
    assert score_of_ratio(lost, won, right, n, 1 - interval.low) == pytest.approx(-Z, rel=5e-3)


@given(n=st.integers(1, 2000), data=st.data())
def test_a_relative_interval_holds_its_estimate_for_all_counts(n: int, data: st.DataObject) -> None:
    right = data.draw(st.integers(1, n))
    lost = data.draw(st.integers(0, right))
    won = data.draw(st.integers(0, n - right))
    interval = relative_interval(lost, won, right, n, 0.95)
    assert interval.low <= (lost - won) / right + 1e-9
    assert (lost - won) / right - 1e-9 <= interval.high <= 1


def test_with_everything_right_before_the_ratio_is_near_the_difference() -> None:
    relative, absolute = relative_interval(30, 0, 1000, 1000, 0.95), difference_interval(30, 0, 1000, 0.95)
    assert relative.low == pytest.approx(absolute.low, rel=0.05)
    assert relative.high == pytest.approx(absolute.high, rel=0.05)


@pytest.mark.parametrize("n", [1, 20, 300])
def test_the_interval_of_a_proportion_never_covers_too_little(n: int) -> None:
    ends = [proportion_interval(count, n, 0.95) for count in range(n + 1)]
    for truth in np.linspace(0.001, 0.999, 97):
        chances = binom.pmf(np.arange(n + 1), n, truth)
        assert sum(c for c, i in zip(chances, ends, strict=True) if truth < i.low) <= 0.025 + 1e-9
        assert sum(c for c, i in zip(chances, ends, strict=True) if truth > i.high) <= 0.025 + 1e-9


# --- bootstrap --------------------------------------------------------------------------------------------------


def _holds(interval: Interval, truth: float) -> bool:
    return interval.low <= truth <= interval.high


@pytest.mark.parametrize(
    ("draw", "truth"),
    [
        pytest.param(lambda g, n: g.normal(1.0, 1.0, n), 1.0, id="normal"),
        pytest.param(lambda g, n: g.exponential(1.0, n), 1.0, id="exponential"),
        pytest.param(lambda g, n: g.normal(size=n) ** 2, 1.0, id="chi-squared"),
    ],
)
def test_the_bootstrap_covers(draw: Callable[[np.random.Generator, int], np.ndarray], truth: float) -> None:
    """300 data sets of 150. At a true coverage of 0.93 or more, fewer than 262 hits have a chance below 2e-4."""
    generator = np.random.default_rng(7)
    hits = sum(_holds(bootstrap_interval(draw(generator, 150), 0.95, seed), truth) for seed in range(300))
    assert hits >= 262
    assert binom.cdf(261, 300, 0.93) < 2e-4


def test_the_bootstrap_of_a_ratio_covers() -> None:
    """As above, for sum(a) / sum(r) with a depending on r; the truth is 0.3."""
    generator = np.random.default_rng(8)
    hits = 0
    for seed in range(300):
        references = generator.uniform(0.5, 1.5, 150)
        contributions = references * generator.exponential(0.3, 150)
        hits += _holds(bootstrap_interval(contributions, 0.95, seed, references=references), 0.3)
    assert hits >= 262


def test_the_bootstrap_depends_on_the_seed_alone() -> None:
    values = np.random.default_rng(0).exponential(1.0, 100)
    assert bootstrap_interval(values, 0.95, 3) == bootstrap_interval(values, 0.95, 3)
    assert bootstrap_interval(values, 0.95, 3) != bootstrap_interval(values, 0.95, 4)


def test_the_bootstrap_is_computed_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).exponential(1.0, 100)
    whole = bootstrap_interval(values, 0.95, 3)
    monkeypatch.setattr("evaluation.intervals._CHUNK_ELEMENTS", 1000)
    assert bootstrap_interval(values, 0.95, 3) == whole


@given(scale=st.floats(1e-3, 1e3), shift=st.floats(-5, 5), seed=st.integers(0, 100))
def test_the_bootstrap_moves_with_its_values(scale: float, shift: float, seed: int) -> None:
    values = np.random.default_rng(seed).exponential(1.0, 40)
    plain, moved = bootstrap_interval(values, 0.9, seed), bootstrap_interval(scale * values + shift, 0.9, seed)
    assert moved.low == pytest.approx(scale * plain.low + shift, rel=1e-6, abs=1e-6)
    assert moved.high == pytest.approx(scale * plain.high + shift, rel=1e-6, abs=1e-6)


def test_equal_values_show_nothing_about_rare_others() -> None:
    zeros = np.zeros(100)
    assert bootstrap_interval(zeros, 0.95, 0) == Interval(0.0, 0.0, 0.95, "bootstrap-t")
    bounded = bootstrap_interval(zeros, 0.95, 0, bounds=(-1.0, 1.0))
    assert bounded.high == pytest.approx(proportion_interval(0, 100, 0.95).high)
    assert bounded.low == -bounded.high


def test_one_value_among_equal_ones_does_not_leave_the_bounds() -> None:
    values = np.zeros(100)
    values[0] = 1.0
    interval = bootstrap_interval(values, 0.95, 0, bounds=(0.0, 1.0))
    assert 0.0 <= interval.low <= 0.01
    assert interval.high == 1.0  # more than 2.5 % of the resamples miss the one value


# --- arguments --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [0.0, 1.0, 95.0, float("nan")])
def test_levels_lie_between_0_and_1(level: float) -> None:
    for find in (
        lambda: difference_interval(1, 1, 10, level),
        lambda: relative_interval(1, 1, 5, 10, level),
        lambda: proportion_interval(1, 10, level),
        lambda: bootstrap_interval(np.arange(5.0), level, 0),
    ):
        with pytest.raises(ValueError, match="level"):
            find()


def test_counts_are_checked() -> None:
    for lost, won, n in ((-1, 0, 5), (0, -1, 5), (3, 3, 5), (0, 0, 0)):
        with pytest.raises(ValueError, match="counts"):
            difference_interval(lost, won, n, 0.95)
    for lost, won, right in ((3, 0, 2), (0, 0, 0), (0, 2, 4)):
        with pytest.raises(ValueError, match="right"):
            relative_interval(lost, won, right, 5, 0.95)
    with pytest.raises(ValueError, match="at least 2"):
        bootstrap_interval(np.ones(1), 0.95, 0)
    with pytest.raises(ValueError, match="references"):
        bootstrap_interval(np.ones(3), 0.95, 0, references=np.zeros(3))


@given(st.floats(-1, 1), st.floats(-1, 1))
def test_an_interval_is_ordered(low: float, high: float) -> None:
    assume(low > high)
    with pytest.raises(ValueError, match="low <= high"):
        Interval(low, high, 0.95, "any")


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("differ", [1, 2, 3])
def test_without_bounds_few_values_among_equal_ones_leave_a_finite_interval(differ: int, sign: int) -> None:
    # a resample without any of them has no error at all
    values = np.zeros(60)
    values[:differ] = sign * 5.0
    interval = bootstrap_interval(values, 0.95, 0)
    allowed = 5.0 * proportion_interval(differ, 60, 0.95).high
    assert max(abs(interval.low), abs(interval.high)) == pytest.approx(allowed)
    assert interval.low <= values.mean() <= interval.high
    half = bootstrap_interval(values, 0.95, 0, references=np.full(60, 2.0))
    assert (half.low, half.high) == pytest.approx((interval.low / 2, interval.high / 2))
    moved = bootstrap_interval(values + 3, 0.95, 0)
    assert (moved.low, moved.high) == pytest.approx((interval.low + 3, interval.high + 3))

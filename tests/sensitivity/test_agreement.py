"""Agreement of predictions with measurements: known correlations, intervals that cover, a choice that is stable."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import spearmanr

from sensitivity.agreement import FEWEST_PLANS, agreement, choose, random_plans


def test_the_rank_correlation_is_spearmans_ties_included() -> None:
    rng = np.random.default_rng(0)
    predicted, measured = rng.integers(1, 6, 30).astype(float), rng.normal(size=30) + 5
    assert agreement("m", predicted, measured).spearman == pytest.approx(spearmanr(predicted, measured).statistic)


def test_a_perfect_order_is_one_and_a_constant_prediction_is_nothing() -> None:
    measured = np.geomspace(0.01, 1, 20)
    assert agreement("m", measured**2, measured).spearman == pytest.approx(1.0)
    assert agreement("m", np.ones(20), measured).spearman == 0.0


def test_ratio_and_spread_say_how_far_off_the_numbers_are() -> None:
    measured = np.geomspace(0.01, 1, 20)
    found = agreement("m", measured / 2, measured)
    assert (found.ratio, found.spread) == (pytest.approx(2.0), pytest.approx(1.0))
    off = np.where(np.arange(20) % 2, 1.5, 1 / 1.5)
    assert agreement("m", measured * off, measured).spread == pytest.approx(
        math.exp(math.log(1.5) * math.sqrt(20 / 19))
    )


def test_a_prediction_that_is_not_positive_has_an_order_but_no_ratio() -> None:
    measured = np.arange(1.0, 11.0)
    found = agreement("m", measured - 3, measured)
    assert found.spearman == pytest.approx(1.0)
    assert math.isnan(found.ratio)
    assert math.isnan(found.spread)


def test_the_interval_covers_the_true_correlation_about_as_often_as_it_says() -> None:
    # Of a bivariate normal with correlation r, Spearman's is 6 / pi asin(r / 2). The percentile bootstrap of 30 points
    # covers a little less than 95 %; 200 repetitions below 85 % would have a chance of about 1e-6 at 93 %.
    truth, rng, covered = 6 / math.pi * math.asin(0.4), np.random.default_rng(1), 0
    for seed in range(200):
        x = rng.normal(size=30)
        found = agreement("m", x, 0.8 * x + 0.6 * rng.normal(size=30), seed)
        covered += found.low <= truth <= found.high
    assert covered >= 170


def test_the_preferred_method_stays_unless_another_is_better_beyond_doubt() -> None:
    rng = np.random.default_rng(2)
    measured = np.exp(rng.normal(size=20))
    good, same = (measured * np.exp(0.1 * rng.normal(size=20)) for _ in range(2))
    poor = measured * np.exp(2 * rng.normal(size=20))
    assert choose([("good", good), ("same", same), ("poor", poor)], measured) == "good"
    assert choose([("same", same), ("good", good), ("poor", poor)], measured) == "same"
    assert choose([("poor", poor), ("good", good)], measured) == "good"
    assert choose([("poor", poor)], measured) == "poor"


def test_of_several_better_ones_the_best_is_taken() -> None:
    measured = np.geomspace(0.01, 1, 24)
    rng = np.random.default_rng(3)
    poor, better = rng.permutation(measured), measured * np.exp(0.3 * rng.normal(size=24))
    assert choose([("poor", poor), ("better", better), ("best", measured.copy())], measured) == "best"


@pytest.mark.parametrize(
    ("predicted", "measured", "text"),
    [
        (np.ones(5), np.ones(4), "one prediction for each measured plan"),
        (np.ones(FEWEST_PLANS - 1), np.ones(FEWEST_PLANS - 1), "at least 8 plans"),
        (np.full(10, np.nan), np.ones(10), "must be finite"),
    ],
)
def test_what_cannot_be_compared_is_refused(predicted: np.ndarray, measured: np.ndarray, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        agreement("m", predicted, measured)
    with pytest.raises(ValueError, match=text):
        choose([("m", predicted)], measured)


def test_random_plans_take_one_candidate_of_each_site_and_depend_on_the_seed_alone() -> None:
    counts = [3, 1, 5]
    plans = random_plans(counts, 400, seed=7)
    assert plans.shape == (400, 3)
    assert np.array_equal(plans, random_plans(counts, 400, seed=7))
    assert not np.array_equal(plans, random_plans(counts, 400, seed=8))
    assert set(plans[:, 0]) == {0, 1, 2}
    assert set(plans[:, 1]) == {3}
    assert set(plans[:, 2]) == {4, 5, 6, 7, 8}

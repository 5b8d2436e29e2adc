"""The difference estimator: unbiased whatever is predicted, exact at the end, sharper with a good prediction."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import log_softmax, softmax

from evaluation.control_variate import difference_estimate, margins, predicted_losses

SAMPLES = 800


@pytest.fixture(scope="module")
def plans() -> tuple[np.ndarray, list[np.ndarray]]:
    """Margins of a float network, and of four plans whose noise is partly the same."""
    generator = np.random.default_rng(0)
    float_margins = generator.normal(4, 4, SAMPLES)
    common = generator.normal(0, 1, SAMPLES)
    return float_margins, [float_margins + common + generator.normal(0, 0.7, SAMPLES) for _ in range(4)]


def losses(float_margins: np.ndarray, plan: np.ndarray) -> np.ndarray:
    return (float_margins > 0).astype(float) - (plan > 0)


def test_a_margin_is_the_log_odds_against_the_runner_up():
    logits = np.random.default_rng(0).normal(size=(6, 5))
    classes = np.array([0, 1, 2, 3, 4, 0])
    logs = log_softmax(logits, -1)
    expected = [row[label] - np.delete(row, label).max() for row, label in zip(logs, classes, strict=True)]
    np.testing.assert_allclose(margins(logits, classes, probabilities=False), expected, rtol=1e-12)
    np.testing.assert_allclose(margins(softmax(logits, -1), classes, probabilities=True), expected, rtol=1e-12)


@pytest.mark.parametrize("row", [[np.nan] * 3, [np.inf, 0, 0], [0, np.inf, 0], [-np.inf] * 3, [0, -np.inf, -np.inf]])
def test_margins_of_useless_outputs_are_finite(row):
    assert np.isfinite(margins(np.array([row]), np.array([0]), probabilities=False)).all()


def test_nothing_is_predicted_from_nothing(plans):
    assert predicted_losses(plans[0], []) is None
    assert predicted_losses(plans[0], [np.full(SAMPLES, np.nan)]) is None


def test_predictions_keep_the_bounds_of_the_losses_and_know_half_of_them(plans):
    float_margins, (new, *earlier) = plans
    predicted = predicted_losses(float_margins, earlier)
    assert ((predicted >= 0) == (float_margins > 0)).all()
    assert np.abs(predicted).max() <= 1
    actual = losses(float_margins, new)
    assert (actual - predicted).var() < 0.6 * actual.var()


def test_samples_that_no_earlier_plan_saw_are_predicted_from_the_float_network_alone(plans):
    float_margins, (_, one, two, _) = plans
    one, two = one.copy(), two.copy()
    one[:300], two[:100] = np.nan, np.nan
    predicted = predicted_losses(float_margins, [one, two])
    assert np.isfinite(predicted).all()
    certain = np.flatnonzero(float_margins[:100] > 15)
    assert (predicted[certain] < 1e-6).all()


@pytest.mark.parametrize("good", [True, False])
def test_the_estimate_is_unbiased_for_any_prediction_and_its_error_is_what_it_says(plans, good):
    """4,000 draws of 200 of 800 samples: the mean estimate is off by at most 4 of its standard errors."""
    float_margins, (new, *earlier) = plans
    actual = losses(float_margins, new)
    predicted = predicted_losses(float_margins, earlier) if good else np.random.default_rng(1).normal(size=SAMPLES)
    generator = np.random.default_rng(2)
    estimates = []
    for _ in range(4000):
        read = generator.permutation(SAMPLES)[:200]
        estimates.append(difference_estimate(actual[read], read, predicted))
    means = np.array([estimate.mean for estimate in estimates])
    assert abs(means.mean() - actual.mean()) < 4 * means.std() / np.sqrt(4000)
    # of the samples' own luck the draws show only the first term, less what sampling without replacement saves
    stated = np.mean([estimate.stderr**2 for estimate in estimates]) - predicted.var() / SAMPLES
    assert means.var() == pytest.approx(stated * (1 - 200 / SAMPLES), rel=0.1)
    plain = actual.var() / 200 * (1 - 200 / SAMPLES)
    assert (means.var() < 0.6 * plain) == good


def test_of_all_samples_it_is_the_plain_mean(plans):
    float_margins, (new, *earlier) = plans
    actual = losses(float_margins, new)
    read = np.random.default_rng(0).permutation(SAMPLES)
    estimate = difference_estimate(actual[read], read, predicted_losses(float_margins, earlier))
    assert estimate.mean == pytest.approx(actual.mean())
    assert estimate.stderr == pytest.approx(actual.std(ddof=1) / np.sqrt(SAMPLES))

"""Predictions of whole plans against sums written down, and the fitted weight against the one that made the data."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sensitivity.dependencies.augmented import augmented_scores, fit_lambda, predicted_damage

SITES, FORMATS, PLANS = 6, 3, 40


@pytest.fixture
def own(rng) -> np.ndarray:
    return rng.uniform(0.5, 2.0, size=SITES * FORMATS)


@pytest.fixture
def matrix(rng) -> np.ndarray:
    root = rng.normal(size=(SITES * FORMATS, 30))
    return 0.02 * root @ root.T


@pytest.fixture
def plans(rng) -> np.ndarray:
    return np.arange(SITES) * FORMATS + rng.integers(FORMATS, size=(PLANS, SITES))


@pytest.mark.parametrize("lam", [0.0, 0.4, 1.0])
def test_predictions_are_own_terms_and_pairs(lam, own, matrix, plans):
    for plan, scores, total in zip(
        plans, augmented_scores(own, matrix, plans, lam), predicted_damage(own, matrix, plans, lam), strict=True
    ):
        x = np.zeros(len(own))
        x[plan] = 1
        off = matrix - np.diag(np.diag(matrix))
        assert total == pytest.approx(own @ x + lam * x @ off @ x)
        np.testing.assert_allclose(scores, [own[i] + lam * sum(matrix[i, j] for j in plan if j != i) for i in plan])


def test_lambda_zero_is_hawq_v2(own, matrix, plans):
    np.testing.assert_array_equal(augmented_scores(own, matrix, plans, 0.0), own[plans])


@pytest.mark.parametrize("lam", [0.0, 0.3, 0.8])
def test_recovers_the_lambda_that_made_the_damages(lam, own, matrix, plans):
    fit = fit_lambda(own, matrix, plans, predicted_damage(own, matrix, plans, lam))
    assert fit.value == pytest.approx(lam, abs=1e-12)
    assert fit.relative_error == pytest.approx(0, abs=1e-12)
    assert fit.plans == PLANS


def test_the_standard_error_is_as_large_as_the_error(own, matrix, plans, rng):
    """300 fits to damages with 3 % of noise: the mean square of errors in standard errors is one within 5 sigma."""
    ratios = []
    exact = predicted_damage(own, matrix, plans, 0.5)
    for _ in range(300):
        fit = fit_lambda(own, matrix, plans, exact * (1 + 0.03 * rng.normal(size=PLANS)))
        ratios.append((fit.value - 0.5) / fit.stderr)
        assert fit.relative_error < fit.relative_error_alone
    assert abs(np.square(ratios).mean() - 1) < 5 * math.sqrt(2 / 300) + 0.1


def test_residuals_are_relative(own, matrix, plans):
    """Fine plans made by one lambda, coarse ones, a hundred times the damage, by another: each counts the same."""
    fine = predicted_damage(own, matrix, plans, 0.2)
    twice = np.concatenate([plans, plans + len(own)])
    both = np.concatenate([own, 100 * own])
    block = np.zeros((2 * len(own), 2 * len(own)))
    block[: len(own), : len(own)], block[len(own) :, len(own) :] = matrix, 100 * matrix
    coarse = 100 * predicted_damage(own, matrix, plans, 0.6)
    fit = fit_lambda(both, block, twice, np.concatenate([fine, coarse]))
    assert 0.3 < fit.value < 0.5


def test_stays_where_predictions_are_damages(own, matrix, plans):
    less = fit_lambda(own, matrix, plans, predicted_damage(own, np.abs(matrix), plans, 0.0) * 0.01)
    assert np.all(predicted_damage(own, matrix, plans, less.value) >= -1e-12)
    below = fit_lambda(own, np.abs(matrix), plans, 0.5 * own[plans].sum(1))
    assert below.value == 0
    assert below.limited


def test_without_interactions_lambda_is_open(own, plans):
    fit = fit_lambda(own, np.zeros((len(own), len(own))), plans, own[plans].sum(1))
    assert fit.value == 0
    assert fit.stderr == math.inf


@pytest.mark.parametrize("factor", [0.0, -1.0, math.nan])
def test_measured_damages_must_be_positive(factor, own, matrix, plans):
    with pytest.raises(ValueError, match="not above 0"):
        fit_lambda(own, matrix, plans, factor * np.ones(PLANS))


def test_what_does_not_fit_is_refused(own, matrix, plans):
    measured = np.ones(PLANS)
    with pytest.raises(ValueError, match="do not fit"):
        predicted_damage(own, matrix[:3], plans, 1.0)
    with pytest.raises(ValueError, match="expected places below"):
        predicted_damage(own, matrix, plans + FORMATS, 1.0)
    with pytest.raises(ValueError, match="lambda must be at least 0"):
        predicted_damage(own, matrix, plans, -0.1)
    with pytest.raises(ValueError, match="expected one for each of 40 plans"):
        fit_lambda(own, matrix, plans, measured[:3])
    with pytest.raises(ValueError, match="own damage is negative"):
        fit_lambda(-own, matrix, plans, measured)

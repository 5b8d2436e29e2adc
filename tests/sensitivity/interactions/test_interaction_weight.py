"""The fitted weight of the interactions against the one that made the data."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sensitivity.interaction_matrix import InteractionMatrix
from sensitivity.interaction_weight import fit_lambda
from sensitivity.prediction import Prediction

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


def damages(own: np.ndarray, matrix: np.ndarray, plans: np.ndarray, lam: float) -> np.ndarray:
    """`own' x + lambda x' G_off x` of each plan x, entry by entry."""
    off = lam * (matrix - np.diag(np.diag(matrix)))
    return np.array([own[plan].sum() + sum(off[i, j] for i in plan for j in plan) for plan in plans])


@pytest.mark.parametrize("lam", [0.0, 0.3, 0.8])
def test_recovers_the_lambda_that_made_the_damages(lam, own, matrix, plans):
    assert fit_lambda(
        own, InteractionMatrix.of(matrix), plans, damages(own, matrix, plans, lam)
    ).value == pytest.approx(lam, abs=1e-12)


def test_lambda_one_is_the_prediction_with_interactions(own, matrix, plans):
    np.fill_diagonal(matrix, own)
    fit = fit_lambda(
        own,
        InteractionMatrix.of(matrix),
        plans,
        Prediction("cross_layer", own, InteractionMatrix.of(matrix)).damages(plans),
    )
    assert fit.value == pytest.approx(1, abs=1e-12)
    assert fit.stderr == pytest.approx(0, abs=1e-12)


def test_the_standard_error_is_as_large_as_the_error(own, matrix, plans, rng):
    """300 fits to damages with 3 % of noise: the mean square of errors in standard errors is one within 5 sigma."""
    ratios = []
    exact = damages(own, matrix, plans, 0.5)
    for _ in range(300):
        fit = fit_lambda(own, InteractionMatrix.of(matrix), plans, exact * (1 + 0.03 * rng.normal(size=PLANS)))
        ratios.append((fit.value - 0.5) / fit.stderr)
    assert abs(np.square(ratios).mean() - 1) < 5 * math.sqrt(2 / 300) + 0.1


def test_residuals_are_relative(own, matrix, plans):
    """Fine plans made by one lambda, coarse ones, a hundred times the damage, by another: each counts the same."""
    fine = damages(own, matrix, plans, 0.2)
    twice = np.concatenate([plans, plans + len(own)])
    both = np.concatenate([own, 100 * own])
    block = np.zeros((2 * len(own), 2 * len(own)))
    block[: len(own), : len(own)], block[len(own) :, len(own) :] = matrix, 100 * matrix
    coarse = 100 * damages(own, matrix, plans, 0.6)
    fit = fit_lambda(both, InteractionMatrix.of(block), twice, np.concatenate([fine, coarse]))
    assert 0.3 < fit.value < 0.5


def test_stays_where_predictions_are_damages(own, matrix, plans):
    less = fit_lambda(own, InteractionMatrix.of(matrix), plans, damages(own, np.abs(matrix), plans, 0.0) * 0.01)
    assert np.all(damages(own, matrix, plans, less.value) >= -1e-12)
    assert fit_lambda(own, InteractionMatrix.of(np.abs(matrix)), plans, 0.5 * own[plans].sum(1)).value == 0


def test_without_interactions_lambda_is_open(own, plans):
    fit = fit_lambda(own, InteractionMatrix.of(np.zeros((len(own), len(own)))), plans, own[plans].sum(1))
    assert fit.value == 0
    assert fit.stderr == math.inf


@pytest.mark.parametrize("factor", [0.0, -1.0, math.nan])
def test_measured_damages_must_be_positive(factor, own, matrix, plans):
    with pytest.raises(ValueError, match="not above 0"):
        fit_lambda(own, InteractionMatrix.of(matrix), plans, factor * np.ones(PLANS))


def test_what_does_not_fit_is_refused(own, matrix, plans):
    measured = np.ones(PLANS)
    with pytest.raises(ValueError, match="do not fit"):
        fit_lambda(own, InteractionMatrix.of(matrix[:3, :3]), plans, measured)
    with pytest.raises(ValueError, match="do not fit"):
        fit_lambda(own, InteractionMatrix.of(matrix), plans, measured[:3])
    with pytest.raises(ValueError, match="expected plans of places below"):
        fit_lambda(own, InteractionMatrix.of(matrix), plans + FORMATS, measured)
    with pytest.raises(ValueError, match="expected plans of places below"):
        fit_lambda(own, InteractionMatrix.of(matrix), plans[:0], measured[:0])
    with pytest.raises(ValueError, match="own damage is negative"):
        fit_lambda(-own, InteractionMatrix.of(matrix), plans, measured)

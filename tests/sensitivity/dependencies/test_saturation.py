"""The saturation map against data that it made itself, and against real measurements."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sensitivity.dependencies.measured import MeasuredPlans
from sensitivity.dependencies.saturation import Saturation, fit_saturation, fit_saturation_of_predictions
from sensitivity.loss import Loss

SITES, FORMATS = 8, 4


@pytest.fixture
def own(rng) -> np.ndarray:
    """Damages over three orders of magnitude, as formats give them."""
    return np.exp(rng.uniform(-6, 0, size=SITES * FORMATS))


@pytest.fixture
def plans(rng) -> np.ndarray:
    return np.arange(SITES) * FORMATS + rng.integers(FORMATS, size=(60, SITES))


def product_form(own: np.ndarray, plans: np.ndarray, ceiling: float) -> np.ndarray:
    return np.array([ceiling * (1 - math.prod(1 - own[i] / ceiling for i in plan)) for plan in plans])


def fitted(own: np.ndarray, plans: np.ndarray, found: Saturation) -> np.ndarray:
    """The damages of the plans by the map that was found."""
    return own[plans].sum(1) if found.rate == 0 else product_form(own, plans, 1 / found.rate)


@pytest.mark.parametrize("ceiling", [1.05, 2.0, 30.0])
def test_recovers_the_ceiling_that_made_the_damages(ceiling, own, plans):
    measured = product_form(own, plans, ceiling)
    found = fit_saturation(own, plans, measured)
    assert found.ceiling == pytest.approx(ceiling, rel=1e-4)
    assert found.relative_error < 1e-5
    assert found.explained == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(fitted(own, plans, found), measured, rtol=1e-4)


def test_recovers_it_under_noise(own, plans, rng):
    """5 % of noise on 60 plans; 100 fits: the median is within a tenth of the truth."""
    exact = product_form(own, plans, 2.0)
    fits = [fit_saturation(own, plans, exact * (1 + 0.05 * rng.normal(size=60))) for _ in range(100)]
    assert np.median([fit.ceiling for fit in fits]) == pytest.approx(2.0, rel=0.1)
    assert np.mean([fit.relative_error for fit in fits]) == pytest.approx(0.05, rel=0.1)


@pytest.mark.parametrize("ceiling", [-0.5, -3.0, -30.0])
def test_recovers_the_rate_at_which_damages_compound(ceiling, own, plans):
    measured = product_form(own, plans, ceiling)
    assert np.all(measured > own[plans].sum(1))
    found = fit_saturation(own, plans, measured)
    assert found.rate == pytest.approx(1 / ceiling, rel=1e-4)
    assert found.ceiling == math.inf
    assert found.relative_error < 1e-5
    np.testing.assert_allclose(fitted(own, plans, found), measured, rtol=1e-4)


def test_sums_are_sums(own, plans):
    total = own[plans].sum(1)
    found = fit_saturation(own, plans, total)
    assert found.rate == pytest.approx(0, abs=1e-6)
    assert found.explained_by_sum == pytest.approx(1)
    np.testing.assert_allclose(fitted(own, plans, found), total, rtol=1e-5)


def test_where_nothing_is_damaged_the_map_is_the_sum(plans):
    found = fit_saturation(np.zeros(SITES * FORMATS), plans, np.ones(60))
    assert found.rate == 0
    assert math.isnan(found.explained_by_sum)


def test_says_how_much_the_sum_explains(own, plans):
    """A saturated damage is less well explained by the sum than by the map; a line through the sum is the best line."""
    measured = product_form(own, plans, 1.05)
    found = fit_saturation(own, plans, measured)
    total = own[plans].sum(1)
    line = np.polyval(np.polyfit(total, measured, 1), total)
    expected = 1 - np.square(measured - line).sum() / np.square(measured - measured.mean()).sum()
    assert found.explained_by_sum == pytest.approx(expected)
    assert found.explained_by_sum < 0.99 < found.explained


def test_predictions_of_plans_have_a_ceiling_too(rng):
    predicted = np.exp(rng.uniform(-4, 2, size=50))
    found = fit_saturation_of_predictions(predicted, 3 * -np.expm1(-predicted / 3))
    assert found.ceiling == pytest.approx(3, rel=1e-4)
    assert found.relative_error < 1e-5


def test_the_map_predicts_damage_that_was_measured(softmaxed, perturbations, samples_of, rng):
    """Large changes of a network with bounded outputs: better than the sum, on plans that the fit has not seen."""
    changes = perturbations(softmaxed, 2.0, count=5)
    runs = MeasuredPlans(softmaxed, changes, samples_of(softmaxed, 100), Loss.SQUARED_ERROR)
    own = np.array([runs.losses([place]).mean() for place in range(len(changes))])
    plans = np.array([(i, j) for i in range(5) for j in range(5, 10)])
    measured = np.array([runs.losses(plan).mean() for plan in plans])
    order = rng.permutation(len(plans))
    seen, unseen = order[:12], order[12:]
    found = fit_saturation(own, plans[seen], measured[seen])
    assert found.ceiling < math.inf

    def error(predicted: np.ndarray) -> float:
        return float(np.square(predicted / measured[unseen] - 1).mean())

    assert error(fitted(own, plans[unseen], found)) < error(own[plans[unseen]].sum(1))


def test_what_is_no_damage_is_refused(own, plans):
    with pytest.raises(ValueError, match="own damage is negative"):
        fit_saturation(-own, plans, np.ones(60))
    with pytest.raises(ValueError, match="predicted damage is negative"):
        fit_saturation_of_predictions(-np.ones(3), np.ones(3))
    with pytest.raises(ValueError, match="not above 0"):
        fit_saturation(own, plans, np.zeros(60))
    with pytest.raises(ValueError, match="not above 0"):
        fit_saturation_of_predictions(np.ones(3), np.zeros(3))
    with pytest.raises(ValueError, match="expected one for each of 60 plans"):
        fit_saturation(own, plans, np.ones(3))

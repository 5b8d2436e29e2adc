"""Where the outputs are linear in everything that is rounded, all ways to the interactions give the same numbers."""

from __future__ import annotations

import numpy as np
import pytest

from sensitivity.cross_layer import cross_layer
from sensitivity.interaction_matrix import InteractionMatrix
from sensitivity.loss import Kind, Loss
from sensitivity.plan_losses import MeasuredPlans
from sensitivity.prediction import augmented
from tests.oracles.interactions.pairs import pairs
from tests.oracles.interactions.path_integral import path_integral
from tests.oracles.interactions.products import products
from tests.oracles.interactions.row_sums import row_sums

LOSS = Loss.of(Kind.SQUARED_ERROR, "y")

PLANS = [(0, 2, 4), (1, 3, 5), (5, 0, 3), (2,), (4, 1)]


@pytest.fixture
def subject(quadratic, subject_of):
    network, changes, inputs = quadratic
    return subject_of(network, changes, inputs, LOSS, batch=5)


def of_different_sites(changes) -> np.ndarray:
    sites = np.array([change.site for change in changes])
    return (sites[:, None] != sites) | np.eye(len(sites), dtype=bool)


def test_products_are_the_measured_pairs(quadratic, subject):
    network, changes, inputs = quadratic
    measured = pairs(network, changes, inputs, LOSS)
    found = products(subject)
    apart = of_different_sites(changes)
    np.testing.assert_allclose(found.matrix[apart], measured.matrix[apart], rtol=1e-12, atol=1e-13)
    assert not measured.matrix[~apart].any()
    assert np.abs(measured.matrix[apart]).min() > 0.01
    np.testing.assert_allclose(measured.damage, found.damage, rtol=1e-12)


def test_products_are_twice_the_cross_layer_matrix(quadratic, subject):
    network, changes, inputs = quadratic
    generator = np.random.default_rng(0)
    found = cross_layer(network, changes, inputs, LOSS, threads=1, generator=generator)
    np.testing.assert_allclose(products(subject).matrix, 2 * found.matrix, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("plan", PLANS)
def test_row_sums_are_those_of_the_products(plan, subject):
    matrix = products(subject).matrix[np.ix_(plan, plan)]
    found = row_sums(subject, plan)
    np.testing.assert_allclose(found.shares, matrix.sum(1) / 2, rtol=1e-12, atol=1e-13)
    assert found.damage == pytest.approx(matrix.sum() / 2, rel=1e-12)


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("points", [1, 2, 5])
def test_the_path_integral_is_the_row_sums(plan, points, subject):
    found, expected = path_integral(subject, plan, points), row_sums(subject, plan)
    np.testing.assert_allclose(found.shares, expected.shares, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(found.stderr, expected.stderr, rtol=1e-9, atol=1e-13)
    assert found.damage == pytest.approx(expected.damage, rel=1e-12)
    assert found.quadrature_error == pytest.approx(0, abs=1e-13)


@pytest.mark.parametrize("plan", PLANS)
def test_the_augmented_prediction_is_the_measured_damage(plan, quadratic, subject):
    network, changes, inputs = quadratic
    interactions = products(subject)
    measured = MeasuredPlans(network, changes, inputs, LOSS).losses(plan).mean()
    predicted = augmented(interactions.damage, InteractionMatrix.of(interactions.matrix / 2)).damages(np.array([plan]))
    assert predicted == pytest.approx([measured], rel=1e-12)


def test_batches_do_not_change_the_means(quadratic, subject_of):
    network, changes, inputs = quadratic
    small, large = (subject_of(network, changes, inputs, LOSS, batch=size) for size in (1, 2))
    np.testing.assert_allclose(products(small).matrix, products(large).matrix, rtol=1e-12, atol=1e-13)
    # of single samples the standard error over batches is the one over samples
    oracle = pairs(network, changes, inputs, LOSS)
    apart = of_different_sites(changes)
    np.testing.assert_allclose(products(small).stderr[apart], oracle.stderr[apart], rtol=1e-9)


def test_progress_ends_at_one(quadratic, subject_of):
    network, changes, inputs = quadratic
    for method in (products, lambda s: row_sums(s, (0, 2)), lambda s: path_integral(s, (0, 2))):
        fractions: list[float] = []
        method(subject_of(network, changes, inputs, LOSS, check=fractions.append))
        assert fractions == sorted(fractions)
        assert fractions[-1] == pytest.approx(1)
    fractions = []
    pairs(network, changes, inputs, LOSS, check=fractions.append)
    assert fractions[-1] == pytest.approx(1)


@pytest.mark.parametrize("method", [row_sums, path_integral])
def test_plans_that_cannot_be_made_are_refused(method, subject):
    with pytest.raises(ValueError, match="both change 'site a'"):
        method(subject, (0, 1))
    with pytest.raises(ValueError, match="plan"):
        method(subject, ())


def test_a_path_needs_a_point(subject):
    with pytest.raises(ValueError, match="at least one point"):
        path_integral(subject, (0,), points=0)

"""Predicted damage of whole plans: sums, quadratic forms, and the rescaled matrix."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensitivity.interaction_matrix import InteractionMatrix
from sensitivity.prediction import Prediction, augmented, cross_layer_prediction

PLANS = np.array([[0, 2], [1, 2], [0, 3], [1, 4]])


def psd(seed: int, size: int = 5) -> np.ndarray:
    Z = np.random.default_rng(seed).normal(size=(size, 7))
    return Z @ Z.T


def test_an_additive_prediction_is_a_sum() -> None:
    scores = np.array([1.0, 2.0, 10.0, 20.0, np.nan])
    assert Prediction("m", scores).damages(PLANS)[:3].tolist() == [11.0, 12.0, 21.0]
    assert np.isnan(Prediction("m", scores).damages(PLANS)[3])


def test_the_matrix_predicts_own_damages_and_twice_each_pair() -> None:
    G = psd(0)
    expected = [G[a, a] + G[b, b] + 2 * G[a, b] for a, b in PLANS]
    assert cross_layer_prediction(InteractionMatrix.of(G)).damages(PLANS) == pytest.approx(expected)


def test_the_rescaled_matrix_has_the_measured_diagonal_and_the_correlations_of_the_old() -> None:
    G, measured = psd(1), np.array([0.5, 1.0, 2.0, 3.0, 0.1])
    found = augmented(measured, InteractionMatrix.of(G))
    assert found.interactions is not None
    assert np.diagonal(found.interactions.whole()) == pytest.approx(measured)
    root = np.sqrt(np.diagonal(G))
    rescaled_root = np.sqrt(measured)
    assert found.interactions.whole() / np.outer(rescaled_root, rescaled_root) == pytest.approx(
        G / np.outer(root, root)
    )


@given(st.integers(0, 10_000))
def test_the_rescaled_matrix_is_positive_semidefinite(seed: int) -> None:
    rng = np.random.default_rng(seed)
    G = psd(seed)
    G[2], G[:, 2] = 0.0, 0.0  # a candidate that changes no output
    found = augmented(rng.exponential(size=5), InteractionMatrix.of(G))
    assert found.interactions is not None
    assert np.linalg.eigvalsh(found.interactions.whole())[0] > -1e-9


def test_where_second_order_is_exact_nothing_changes() -> None:
    G = psd(3)
    found = augmented(np.diagonal(G).copy(), InteractionMatrix.of(G))
    assert found.interactions is not None
    assert found.interactions.whole() == pytest.approx(G)


def test_other_units_keep_the_order() -> None:
    G = psd(4)
    for prediction in (Prediction("m", np.arange(5.0)), cross_layer_prediction(InteractionMatrix.of(G))):
        assert prediction.times(3.0).damages(PLANS) == pytest.approx(3.0 * prediction.damages(PLANS))


def test_a_matrix_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="do not fit 3 candidates"):
        Prediction("m", np.ones(3), InteractionMatrix.of(np.ones((2, 2))))

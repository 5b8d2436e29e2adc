"""Interactions in factors: every entry is what the whole matrix would hold, which is never made."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from sensitivity.interaction_matrix import InteractionMatrix
from sensitivity.prediction import augmented, cross_layer_prediction


def _factored(candidates: int, anchors: int) -> InteractionMatrix:
    rng = np.random.default_rng(0)
    measured = rng.normal(size=(anchors, 30))
    anchor_of, root = rng.integers(anchors, size=candidates), rng.uniform(0.5, 2, size=candidates)
    gram = measured @ measured.T
    own = gram.diagonal()[anchor_of] * root**2
    return InteractionMatrix(gram, anchor_of, root, rng.uniform(0.5, 2, size=candidates), own)


def test_entries_are_those_of_the_product() -> None:
    matrix = _factored(40, 7)
    factor = (matrix.scale * matrix.root)[:, None] * np.eye(7)[matrix.anchor_of]
    expected = factor @ matrix.anchors @ factor.T
    np.fill_diagonal(expected, matrix.own)
    assert matrix.whole() == pytest.approx(expected, rel=1e-12)
    rows, columns = np.array([3, 0, 39]), np.array([0, 3, 4, 3])
    assert np.array_equal(matrix.block(rows, columns), matrix.whole()[np.ix_(rows, columns)])


def test_a_matrix_as_it_is() -> None:
    gram = _factored(10, 10).anchors
    assert np.array_equal(InteractionMatrix.of(gram).whole(), gram)


@pytest.mark.parametrize("broken", ["anchors", "root", "scale", "own"])
def test_one_factor_without_a_number_is_noticed(broken: str) -> None:
    matrix = _factored(10, 5)
    assert matrix.is_finite
    getattr(matrix, broken)[1] = np.nan
    assert not matrix.is_finite


def test_predictions_of_plans_never_make_the_whole() -> None:
    """2,000 candidates, whose whole matrix takes 32 MB."""
    matrix, plans = _factored(2000, 100), np.arange(0, 2000, 20)[None] + np.arange(10)[:, None]
    tracemalloc.start()
    try:
        for prediction in (augmented(matrix.own * 1.1, matrix), cross_layer_prediction(matrix).times(2.0)):
            assert (prediction.damages(plans) > 0).all()
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()

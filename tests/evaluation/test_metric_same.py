"""The share of equal elements of outputs that hold no floats."""

from __future__ import annotations

import numpy as np
import pytest

from evaluation.errors import MetricNotApplicable
from tests.evaluation.classes_measuring import measure


@pytest.mark.parametrize("dtype", [np.int64, np.uint8, np.bool_, np.str_, object])
def test_it_counts_equal_elements_of_each_sample(dtype):
    generator = np.random.default_rng(0)
    before, after = (generator.integers(0, 2, (20, 3, 4)) for _ in range(2))
    measured = measure("same", before.astype(dtype), after.astype(dtype))
    np.testing.assert_allclose(measured.contributions, (before != after).mean((1, 2)))
    assert measured.float_value == 1.0
    assert measured.quantized_value == pytest.approx((before == after).mean())
    assert not measured.counts


def test_one_element_is_right_or_wrong():
    measured = measure("same", np.arange(5), np.array([0, 1, 2, 9, 9]))
    assert measured.counts
    assert measured.right_to_wrong == 2


def test_places_count():
    assert measure("same", np.array([[3, 1, 2]]), np.array([[1, 3, 2]])).drop() == pytest.approx(2 / 3)


def test_floats_and_nothing_are_refused():
    with pytest.raises(MetricNotApplicable, match="use explained"):
        measure("same", np.zeros((5, 2)), np.zeros((5, 2)))
    for shape in ((), (0, 3), (4, 0)):
        with pytest.raises(MetricNotApplicable, match="at least one sample"):
            measure("same", np.zeros(shape, np.int64), np.zeros(shape, np.int64))

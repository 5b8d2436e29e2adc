"""Scales of channels: in their own units, and never so small that a channel that hardly varies drowns all others."""

from __future__ import annotations

import numpy as np
import pytest

from sensitivity.loss import Kind, Term
from sensitivity.whitening import SMALLEST_SCALE, SMALLEST_SHARE, whitening


@pytest.mark.parametrize("axis", [1, -2])
def test_the_scale_is_the_standard_deviation_over_samples_and_positions(axis, rng):
    outputs = (rng.normal(size=(50, 3, 7)) * [[1e-3], [1.0], [1e4]] + [[1e-4], [0.0], [5e4]]).astype(np.float32)
    expected = outputs.astype(np.float64).std((0, 2))
    np.testing.assert_allclose(whitening(outputs, axis), expected, rtol=1e-6)
    np.testing.assert_allclose(whitening(outputs, axis, (1, 3)), expected[1:], rtol=1e-6)


def test_the_unit_of_a_channel_does_not_count(rng):
    reference, change = rng.normal(size=(2, 30, 4))
    units = np.array([1e-5, 1.0, 30.0, 1e6])
    lost = [
        Term("y", Kind.SQUARED_ERROR, scales=whitening(unit * reference)).sample_loss(
            unit * (reference + change), unit * reference
        )
        for unit in (np.ones(4), units)
    ]
    np.testing.assert_allclose(lost[1], lost[0], rtol=1e-9)


def test_constant_channels_have_a_scale_of_their_size_and_empty_ones_of_the_others(rng):
    outputs = np.stack([np.full(20, 640.0), np.zeros(20), 2 * rng.normal(size=20), 6 * rng.normal(size=20)], axis=1)
    constant, zero, *varying = whitening(outputs)
    assert constant == pytest.approx(640 * SMALLEST_SHARE)
    np.testing.assert_allclose(varying, outputs[:, 2:].std(0))
    assert zero == pytest.approx(np.median([constant, *varying]))
    assert whitening(np.zeros((5, 2))) == (1.0, 1.0)
    assert whitening(np.full((5, 1), 1e-20)) == (SMALLEST_SCALE,)


def test_what_is_not_finite_is_left_out(rng):
    outputs = rng.normal(size=(40, 3))
    expected = outputs[1:, 0].std()
    outputs[0, 0], outputs[:, 1] = np.inf, np.nan
    scales = whitening(outputs)
    assert scales[0] == pytest.approx(expected)
    assert scales[1] == pytest.approx(np.median([scales[0], scales[2]]))
    huge = whitening(np.array([[3e38], [-3e38]], dtype=np.float32))
    assert huge == pytest.approx((3e38,), rel=1e-6)
    assert np.isfinite(whitening(np.array([[1e308], [-1e308]]))).all()


def test_a_single_number_for_each_sample(rng):
    outputs = rng.normal(size=30)
    assert whitening(outputs) == pytest.approx((outputs.std(),))
    assert whitening(outputs.astype(np.float16))[0] == pytest.approx(outputs.std(), rel=1e-2)


@pytest.mark.parametrize("axis", [0, 3, -3, -4])
def test_an_axis_that_is_none_of_channels_is_refused(axis):
    with pytest.raises(ValueError, match="no axis"):
        whitening(np.zeros((4, 2, 3)), axis)

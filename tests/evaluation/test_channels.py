"""Channel groups: which axis separates meanings, and what an error is divided by."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.channels import CONSTANT, MOST_GROUPS, Channels, separating_axis

rng = np.random.default_rng(0)


def test_pixels_and_probabilities_are_told_apart_on_either_axis() -> None:
    boxes = rng.uniform(0, 640, (50, 30, 4))
    scores = rng.uniform(0, 1, (50, 30, 3))
    rows = np.concatenate([boxes, scores], axis=2)
    assert separating_axis(rows) == 2
    assert separating_axis(rows.swapaxes(1, 2)) == 1
    images = rng.normal([0, 5, -40], [1, 1, 1], (20, 8, 8, 3))
    assert separating_axis(images) == 3
    assert separating_axis(np.moveaxis(images, 3, 1)) == 1


def test_one_number_for_each_sample_has_no_axis() -> None:
    for shape in ((40,), (40, 1), (40, 1, 1)):
        channels = Channels.of(rng.normal(size=shape))
        assert channels.axis is None
        assert (channels.channels, channels.label(0)) == (1, "")


@given(st.integers(2, 30), st.integers(1, 5), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_the_spread_is_the_error_of_the_mean_output(samples: int, channels: int, positions: int, seed: int) -> None:
    output = np.random.default_rng(seed).normal(size=(samples, channels, positions)).astype(np.float32)
    found = Channels.of(output, 1)
    exact = output.astype(np.float64)
    expected = np.sqrt(np.square(exact - exact.mean(0)).mean((0, 2)))
    np.testing.assert_allclose(found.spread, expected, rtol=1e-6)
    np.testing.assert_allclose(found.mean, exact.mean(0), rtol=1e-6)
    assert not found.constant.any()


def test_a_difference_between_positions_is_no_spread() -> None:
    """The mean output knows each position: what differs between them has not to be explained."""
    anchors = np.linspace(0, 600, 25)
    output = anchors + rng.normal(size=(40, 25))
    wide = Channels.of(output[:, :, None], 2)
    assert wide.spread == pytest.approx([1.0], rel=0.1)


def test_a_constant_channel_is_measured_against_its_size() -> None:
    output = rng.normal(size=(60, 3))
    output[:, 1] = 7.0
    output[:, 2] = 0.0
    found = Channels.of(output, 1)
    np.testing.assert_array_equal(found.constant, [False, True, True])
    assert found.spread[1] == pytest.approx(7.0)
    assert found.spread[2] == 1.0
    rounding = 7.0 * (1 + 0.1 * CONSTANT * rng.normal(size=(60, 1)))
    assert Channels.of(rounding, 1).constant.all()


def test_many_channels_are_put_together_with_their_neighbours() -> None:
    output = rng.normal(size=(10, 3 * MOST_GROUPS))
    found = Channels.of(output, 1)
    assert found.groups == MOST_GROUPS
    assert found.label(1) == "[3:6]"
    values = np.square(output)
    np.testing.assert_allclose(found.mean_by_group(values), values.reshape(10, MOST_GROUPS, 3).mean(2))
    few = Channels.of(output[:, :5], 1)
    assert [few.label(group) for group in range(few.groups)] == ["[0]", "[1]", "[2]", "[3]", "[4]"]
    np.testing.assert_allclose(few.mean_by_group(values[:, :5]), values[:, :5])

"""Rounding in parts."""

from __future__ import annotations

import numpy as np
import pytest

from quantization.formats import Granularity, IntegerFormat
from quantization.rounding.nearest import round_to_scale
from quantization.rounding.ranges import optimal_scales


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("granularity", list(Granularity))
def test_parts_are_the_whole(granularity: Granularity, axis: int) -> None:
    """A weight longer than what is rounded at once."""
    weight = np.random.default_rng(1).standard_normal((512, 384)).astype(np.float32)
    format_ = IntegerFormat(4, granularity, True, 32 if granularity is Granularity.BLOCK else 0)
    scale = optimal_scales(weight, format_, axis)
    grouped = weight.reshape(scale.shape[0], -1, scale.shape[2]) if format_.block else weight
    expected = np.clip(np.rint(grouped / scale), -8, 7).reshape(weight.shape)
    assert np.array_equal(round_to_scale(weight, format_, scale).codes, expected)

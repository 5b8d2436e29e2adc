"""Biases survive as int32 codes: exactly for layers in floats, and in steps of the kernel's scale for integers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from quantization.activations.biases import LARGEST_CODE, exact_codes, fit, kernel_codes, kernel_scale
from quantization.formats import Granularity, IntegerFormat
from quantization.rounding.nearest import round_nearest
from quantization.storage.weights import IntegerWeight

INPUT_SCALE = 0.03125


@given(hnp.arrays(np.float32, 30, elements=st.floats(-(2.0**100), 2.0**100, width=32, allow_subnormal=False)))
@settings(max_examples=200, deadline=None)
def test_exact_codes_are_exact(values: NDArray[np.float32]) -> None:
    codes, scale = exact_codes(values)
    made = codes.astype(np.float32) * scale
    kept = np.abs(values) >= 2.0**-100
    np.testing.assert_array_equal(made[kept], values[kept])
    assert not made[~kept].any()


def weight(rows: list[list[float]], granularity: Granularity = Granularity.CHANNEL) -> IntegerWeight:
    return round_nearest(np.array(rows, dtype=np.float32), IntegerFormat(8, granularity), 0)


def test_what_fits_is_left_alone() -> None:
    rounded = weight([[0.5, -0.25], [1.0, 0.125]])
    assert fit(rounded, [(np.array([3.0, -2.0], np.float32), INPUT_SCALE)]) is rounded
    assert fit(rounded, []) is rounded


def test_a_channel_of_zeros_keeps_its_bias() -> None:
    """Its scale is 1 by convention: in steps of the input's scale the bias would be off by up to half of one."""
    rounded = weight([[0.0, 0.0], [1.0, 0.5]])
    bias = np.array([0.7321, 0.1], np.float32)
    fitted = fit(rounded, [(bias, INPUT_SCALE)])
    made = kernel_codes(bias, INPUT_SCALE, fitted) * kernel_scale(INPUT_SCALE, fitted)
    np.testing.assert_allclose(made[0], bias[0], rtol=1e-5)
    np.testing.assert_array_equal(fitted.dequantize(), rounded.dequantize())


@pytest.mark.parametrize("granularity", [Granularity.TENSOR, Granularity.CHANNEL])
def test_a_bias_far_above_its_weights_fits_after_all(granularity: Granularity) -> None:
    """1e-7 beside 5: 4e11 steps. The weights lose digits that no output of 8 bits would show."""
    rounded = weight([[1e-7, -5e-8], [2e-7, 1e-7]], granularity)
    bias = np.array([5.0, -40.0], np.float32)
    fitted = fit(rounded, [(bias, INPUT_SCALE)])
    codes = kernel_codes(bias, INPUT_SCALE, fitted)
    assert (np.abs(codes) <= LARGEST_CODE).all()
    np.testing.assert_allclose(codes * kernel_scale(INPUT_SCALE, fitted), bias, rtol=1e-6)
    change = np.abs(fitted.dequantize() - rounded.dequantize()).sum(axis=1) * 255 * INPUT_SCALE
    assert (change < np.abs(bias) / 255 / 8).all()


def test_all_layers_of_a_tied_weight_fit() -> None:
    rounded = weight([[0.0, 0.0], [1e-7, 5e-8]])
    biases = [(np.array([0.5, 3.0], np.float32), 0.5), (np.array([2.0, 1.0], np.float32), 0.001)]
    fitted = fit(rounded, biases)
    for bias, scale in biases:
        made = kernel_codes(bias, scale, fitted) * kernel_scale(scale, fitted)
        np.testing.assert_allclose(made, bias, rtol=2e-3)

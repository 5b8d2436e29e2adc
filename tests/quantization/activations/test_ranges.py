"""Histograms count every value, and the ranges from them are those of the values themselves."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from quantization.activations.quantized import QuantizedActivation
from quantization.activations.ranges import BINS, PERCENTILE, Histogram, RangeMethod, calibrated
from quantization.errors import ActivationsNotFinite
from quantization.formats import UnsignedFormat

Floats = NDArray[np.float32]
SAMPLERS: dict[str, Callable[[np.random.Generator, int], Floats]] = {
    "normal": lambda rng, n: rng.standard_normal(n).astype(np.float32),
    "relu": lambda rng, n: np.maximum(rng.standard_normal(n), 0).astype(np.float32),
    "laplace": lambda rng, n: rng.laplace(size=n).astype(np.float32),
    "outliers": lambda rng, n: rng.standard_t(3, n).astype(np.float32),
    "skewed": lambda rng, n: rng.gumbel(size=n).astype(np.float32),
    "all positive": lambda rng, n: rng.uniform(3, 4, n).astype(np.float32),
    "all negative": lambda rng, n: -rng.exponential(size=n).astype(np.float32),
}


def seen(values: Floats, batches: int = 7) -> Histogram:
    histogram = Histogram("x")
    for part in np.array_split(values, batches):
        histogram.add(part)
    return histogram


def error(activation: QuantizedActivation, values: Floats) -> float:
    return float(np.square(activation.apply(values) - values, dtype=np.float64).mean())


@given(st.lists(st.lists(st.floats(-(2.0**100), 2.0**100, width=32), max_size=20), max_size=8))
@settings(max_examples=200, deadline=None)
def test_every_value_is_counted_in_its_place(batches: list[list[float]]) -> None:
    """In whatever order they come: nothing is lost when the bins grow, and no count is further off than its bin."""
    histogram = Histogram("x")
    for batch in batches:
        histogram.add(np.array(batch, dtype=np.float32))
    values = np.array([x for batch in batches for x in batch], dtype=np.float32)
    assert histogram.zeros == (values == 0).sum()
    assert histogram.counts.sum() == (values != 0).sum()
    if values.size:
        assert (histogram.minimum, histogram.maximum) == (values.min(), values.max())
        centres = np.repeat(histogram.centres, histogram.counts)
        width = histogram.centres[1] - histogram.centres[0]
        np.testing.assert_allclose(centres, np.sort(values[values != 0]), atol=1.01 * width, rtol=1e-6)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_mse_is_as_good_as_trying_every_range(sampler: str, bits: int) -> None:
    """At most 2 % above the best of 24 x 24 ranges, measured on the values themselves, and never above min-max."""
    values = SAMPLERS[sampler](np.random.default_rng(bits), 40_000)
    format_ = UnsignedFormat(bits)
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    ratios = np.linspace(0.06, 1, 24)
    tried = [
        QuantizedActivation.covering(format_, low * a, high * b)
        for a in (ratios if low < 0 else [1.0])
        for b in (ratios if high > 0 else [1.0])
    ]
    histogram = seen(values)
    found = error(calibrated(histogram, format_), values)
    assert found <= 1.02 * min(error(activation, values) for activation in tried)
    assert found <= 1.01 * error(calibrated(histogram, format_, RangeMethod.MINMAX), values)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_minmax_clips_nothing_and_percentile_what_it_says(sampler: str) -> None:
    values = SAMPLERS[sampler](np.random.default_rng(1), 60_000)
    histogram, format_ = seen(values), UnsignedFormat(16)
    whole = calibrated(histogram, format_, RangeMethod.MINMAX)
    assert np.abs(whole.apply(values) - values).max() <= 1.01 * whole.scale
    part = calibrated(histogram, format_, RangeMethod.PERCENTILE)
    low, high = ((code - part.zero_point) * part.scale for code in (0, format_.highest_code))
    width = histogram.centres[1] - histogram.centres[0]
    clipped = [(values < low - width).mean(), (values > high + width).mean()]
    assert max(clipped) <= 1 - PERCENTILE / 100
    expected = [min(np.percentile(values, 100 - PERCENTILE), 0.0), max(np.percentile(values, PERCENTILE), 0.0)]
    # the estimate of so far a percentile from 60,000 values is a matter of the six outermost
    np.testing.assert_allclose([low, high], expected, atol=2 * width + 0.06 * (high - low))


def test_zeros_do_not_count() -> None:
    """99.9 % zeros, as behind Relu, leave the range of the rest as it is."""
    values = SAMPLERS["normal"](np.random.default_rng(2), 5_000)
    many = np.concatenate([values, np.zeros(5_000_000, np.float32)])
    assert calibrated(seen(many), UnsignedFormat(4)) == calibrated(seen(values), UnsignedFormat(4))


def test_memory_does_not_grow_with_the_samples() -> None:
    histogram = Histogram("x")
    rng = np.random.default_rng(3)
    for scale in (1e-6, 1.0, 1e6):
        histogram.add((scale * rng.standard_normal(10_000)).astype(np.float32))
    assert histogram.counts.shape == (BINS,)
    assert histogram.counts.sum() == 30_000


def test_a_tensor_that_is_always_zero_has_parameters() -> None:
    assert calibrated(seen(np.zeros(10, np.float32)), UnsignedFormat(8)).scale == 1.0


def test_refuses_what_is_not_finite_by_name_and_what_was_not_seen() -> None:
    for bad in (np.nan, np.inf, -np.inf):
        histogram = Histogram("layer1/relu")
        histogram.add(np.array([bad, bad], dtype=np.float32))
        with pytest.raises(ActivationsNotFinite, match=r"all values of layer1/relu infinite or no number"):
            calibrated(histogram, UnsignedFormat(8))
    with pytest.raises(ValueError, match="seen none"):
        calibrated(Histogram("x"), UnsignedFormat(8))


@pytest.mark.parametrize("mask", [-np.inf, float(np.finfo(np.float32).min)])
@pytest.mark.parametrize("method", RangeMethod)
def test_a_mask_sets_no_range_and_stays_below_everything(mask: float, method: RangeMethod) -> None:
    scores = SAMPLERS["normal"](np.random.default_rng(5), 4_000)
    activation = calibrated(seen(np.concatenate([scores, np.full(2_000, mask, np.float32)])), UnsignedFormat(8), method)
    assert error(activation, scores) < 0.05**2
    assert activation.apply(np.array([mask], np.float32))[0] == pytest.approx(scores.min() - 16, abs=0.1)


def test_what_is_no_number_and_a_huge_positive_one_are_left_out() -> None:
    values = SAMPLERS["relu"](np.random.default_rng(6), 4_000)
    odd = np.concatenate([values, np.array([np.nan, np.inf, 1e38], np.float32)])
    assert calibrated(seen(odd, 1), UnsignedFormat(8)) == calibrated(seen(values, 1), UnsignedFormat(8))

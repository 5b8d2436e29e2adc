import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from scipy.stats import norm

from quantization.formats import Granularity, IntegerFormat
from quantization.rounding.nearest import round_nearest, round_to_scale
from quantization.rounding.ranges import optimal_scales

ALL_BITS = range(2, 9)
# Relative error of the best symmetric grid without a level at 0 (mid-rise), for a Gaussian.
GAUSSIAN_MID_RISE = {2: 1.19e-1, 3: 3.74e-2, 4: 1.15e-2, 5: 3.50e-3, 6: 1.04e-3, 7: 3.04e-4, 8: 8.8e-5}


def squared_error(row: NDArray[np.float32], scale: NDArray[np.floating], format_: IntegerFormat) -> NDArray[np.float64]:
    """In float64, for each of many scales."""
    codes = np.clip(np.rint(row / scale[:, None]), format_.lowest_code, format_.highest_code)
    return np.square(codes * scale[:, None] - row.astype(np.float64)).sum(axis=1)


def squared_errors(
    rows: NDArray[np.float32], scale: NDArray[np.floating], format_: IntegerFormat
) -> NDArray[np.float64]:
    """In float64, of each row at its own scale."""
    codes = np.clip(np.rint(rows / scale[:, None]), format_.lowest_code, format_.highest_code)
    return np.square(codes * scale[:, None] - rows.astype(np.float64)).sum(axis=1)


def gaussian_error(scale: float, format_: IntegerFormat) -> float:
    """Expected squared error of a standard Gaussian, from the normal distribution's moments between thresholds."""
    codes = np.arange(format_.lowest_code, format_.highest_code + 1)
    edges = np.concatenate([[-40.0], scale * (codes[1:] - 0.5), [40.0]])
    density = norm.pdf(edges)
    tail = edges * density
    mass, first = np.diff(norm.cdf(edges)), -np.diff(density)
    second = mass - np.diff(tail)
    return float((second - 2 * scale * codes * first + (scale * codes) ** 2 * mass).sum())


@pytest.mark.parametrize("bits", ALL_BITS)
@pytest.mark.parametrize("shape", ["normal", "laplace", "exponential", "student", "few"])
def test_as_good_as_brute_force(bits: int, shape: str) -> None:
    rng = np.random.default_rng(bits)
    draw = {
        "normal": lambda: rng.standard_normal((8, 64)),
        "laplace": lambda: rng.laplace(size=(8, 64)),
        "exponential": lambda: -rng.exponential(size=(8, 64)),
        "student": lambda: rng.standard_t(2, size=(8, 64)),
        "few": lambda: rng.standard_normal((8, 5)),
    }
    weight = draw[shape]().astype(np.float32)
    format_ = IntegerFormat(bits)
    scale = optimal_scales(weight, format_, 0)
    assert scale.shape == (8, 1)
    found, best = [], []
    for row, own in zip(weight, scale[:, 0], strict=True):
        largest = np.abs(row).max() / 2 ** (bits - 1)
        dense = largest * np.geomspace(1 / 20, 2.1, 4000)
        found.append(squared_error(row, own[None], format_)[0])
        best.append(min(squared_error(row, dense, format_).min(), squared_error(row, -dense, format_).min()))
    # from 5 bits on, dense search also picks the luckiest of many ripples: nothing that new weights would share
    lucky = 1.12 if bits > 4 else 1.03
    assert sum(found) / sum(best) < (lucky if shape != "few" else 4)


@pytest.mark.parametrize(("bits", "above"), [(2, 1.003), (3, 1.003), (4, 1.004), (5, 1.005), (6, 1.02), (8, 1.12)])
def test_blocks_are_as_good_as_all_clip_ratios(bits: int, above: float) -> None:
    """Mean over blocks of 32 Gaussian weights; from 6 bits on, ever larger scales of dense search are ever luckier."""
    rows = np.random.default_rng(bits).standard_normal((1500, 32), dtype=np.float32)
    format_ = IntegerFormat(bits)
    scale = optimal_scales(rows, format_, 0)
    found = squared_errors(rows, scale[:, 0], format_)
    largest = np.abs(rows).max(axis=1) / 2 ** (bits - 1)
    best = np.full(len(rows), np.inf)
    for ratio in np.geomspace(0.25, max(2 ** (bits - 1) / (2 ** (bits - 1) - 1), 1.1), 150):
        for sign in (1, -1):
            best = np.minimum(best, squared_errors(rows, sign * ratio * largest, format_))
    assert found.mean() < above * best.mean()


@pytest.mark.parametrize("bits", ALL_BITS)
def test_gaussian_error_reaches_the_optimum_of_its_grid(bits: int) -> None:
    weight = np.random.default_rng(0).standard_normal((1, 200_000)).astype(np.float32)
    format_ = IntegerFormat(bits)
    error = np.mean(np.square(round_nearest(weight, format_, 0).dequantize() - weight, dtype=np.float64))
    optimum = min(gaussian_error(scale, format_) for scale in np.geomspace(0.5, 8, 600) / 2 ** (bits - 1))
    assert error / np.mean(np.square(weight, dtype=np.float64)) == pytest.approx(optimum, rel=0.02)
    # a level at 0 and one code more on one side: dearer than mid-rise at 2 and 3 bits, about equal from 4 bits on
    assert optimum < GAUSSIAN_MID_RISE[bits] * {2: 1.26, 3: 1.09}.get(bits, 1.05)


@pytest.mark.parametrize("granularity", [Granularity.TENSOR, Granularity.CHANNEL])
def test_scales_have_the_shape_that_weights_take(granularity: Granularity) -> None:
    weight = np.random.default_rng(1).standard_normal((4, 3, 5)).astype(np.float32)
    for bits in ALL_BITS:
        scale = optimal_scales(weight, IntegerFormat(bits, granularity), 1)
        assert scale.shape == ((1, 3, 1) if granularity is Granularity.CHANNEL else ())


def test_any_channel_axis_and_rows_longer_than_a_tile() -> None:
    weight = np.random.default_rng(2).standard_normal((3, 70_000)).astype(np.float32)
    along, across = (optimal_scales(w, IntegerFormat(3), a) for w, a in ((weight, 0), (weight.T.copy(), -1)))
    assert np.array_equal(along, across.T)
    for row, scale in zip(weight, along[:, 0], strict=True):
        nearby = scale * np.linspace(0.8, 1.2, 81)
        best = squared_error(row, nearby, IntegerFormat(3)).min()
        assert squared_error(row, scale[None], IntegerFormat(3))[0] < best * 1.002


def test_the_code_more_serves_the_heavier_tail() -> None:
    tail = np.array([[1.0, 1.0, 0.5, -0.5, 2.0, 0.0, -1.0]], dtype=np.float32)
    for weight in (tail, -tail):
        rounded = round_nearest(np.concatenate([weight, weight * 0.5]), IntegerFormat(3), 0)
        assert np.allclose(rounded.dequantize()[0], weight[0], atol=1e-6)
    up, down = (optimal_scales(w, IntegerFormat(2), 0) for w in (tail, -tail))
    assert up[0, 0] < 0 < down[0, 0]


def test_zero_and_vanishing_channels_take_scale_one() -> None:
    weight = np.array([[0, 0, 0], [1, -1, 0.5], [1e-45, 0, -1e-45]], dtype=np.float32)
    for bits in ALL_BITS:
        rounded = round_nearest(weight, IntegerFormat(bits), 0)
        assert rounded.scale[0] == rounded.scale[2] == 1
        assert not rounded.codes[[0, 2]].any()
        assert rounded.codes[1].any()


@pytest.mark.parametrize(
    ("weight", "axis", "message"),
    [
        (np.ones((2, 2)), 0, "finite float32, got float64"),
        (np.array([[np.inf, 1]], dtype=np.float32), 0, "finite"),
        (np.ones((2, 2), np.float32), 2, "axis 2"),
    ],
)
def test_refuses_what_has_no_scale(weight: NDArray[np.floating], axis: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        optimal_scales(weight, IntegerFormat(4), axis)  # type: ignore[arg-type]


@given(st.sampled_from(ALL_BITS), st.integers(-20, 20), st.booleans(), st.data())
@settings(max_examples=60, deadline=None)
def test_integers_that_use_the_range_survive(bits: int, exponent: int, negative: bool, data: st.DataObject) -> None:
    format_ = IntegerFormat(bits)
    codes = data.draw(hnp.arrays(np.int8, 12, elements=st.integers(format_.lowest_code, format_.highest_code)))
    codes[:2] = format_.lowest_code, format_.highest_code
    weight = np.ldexp(codes.astype(np.float32) * (-1 if negative else 1), exponent)[None]
    rounded = round_nearest(weight, format_, 0)
    # a scale found by the grid is a float32 rounding or two from the power of two
    assert np.allclose(rounded.dequantize(), weight, rtol=1e-5, atol=0)
    assert np.array_equal(np.abs(rounded.codes[0].astype(int)), np.abs(codes.astype(int)))


@given(st.sampled_from(ALL_BITS), st.floats(2.0**-60, 2.0**60, width=32), st.booleans())
@settings(max_examples=60, deadline=None)
def test_every_code_survives_its_own_scale(bits: int, magnitude: float, negative: bool) -> None:
    format_ = IntegerFormat(bits)
    codes = np.arange(format_.lowest_code, format_.highest_code + 1, dtype=np.int8)[None]
    scale = np.full((1, 1), -magnitude if negative else magnitude, dtype=np.float32)
    rounded = round_to_scale(codes.astype(np.float32) * scale, format_, scale)
    assert np.array_equal(rounded.codes, codes)


def test_error_falls_with_every_bit() -> None:
    weight = np.random.default_rng(3).standard_normal((16, 100)).astype(np.float32)
    errors = [
        float(np.square(round_nearest(weight, IntegerFormat(bits), 0).dequantize() - weight).sum()) for bits in ALL_BITS
    ]
    assert all(math.log2(before / after) > 1.4 for before, after in itertools.pairwise(errors))


def test_a_scale_does_not_depend_on_how_many_channels_there_are() -> None:
    """Long channels, few or many beside each other."""
    weight = np.random.default_rng(0).standard_normal((2200, 2000)).astype(np.float32)
    format_ = IntegerFormat(8)
    many, few = (optimal_scales(some, format_, 0) for some in (weight, weight[:60]))
    errors = [
        np.square(round_to_scale(weight[:60], format_, s).dequantize() - weight[:60]).mean() for s in (many[:60], few)
    ]
    assert errors[0] == pytest.approx(errors[1], rel=2e-4)

"""Scales and zero points against all pairs of ends, and against the whole range."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray

from quantization.formats import Granularity, IntegerFormat
from quantization.rounding.affine_ranges import optimal_affine
from quantization.rounding.nearest import round_to_scale
from quantization.storage.half_scales import round_scales

DRAWS = {
    "normal": lambda rng, shape: rng.standard_normal(shape),
    "shifted": lambda rng, shape: rng.standard_normal(shape) + 2,
    "exponential": lambda rng, shape: -rng.exponential(size=shape),
    "student": lambda rng, shape: rng.standard_t(2, size=shape),
    "one tail": lambda rng, shape: rng.standard_normal(shape) + 6 * (rng.random(shape) < 0.03),
}


def affine(bits: int, granularity: Granularity = Granularity.CHANNEL, block: int = 0) -> IntegerFormat:
    return IntegerFormat(bits, granularity, symmetric=False, block=block)


def row_errors(weight: NDArray[np.float32], format_: IntegerFormat) -> NDArray[np.float64]:
    """Squared error of every row as `optimal_affine` has it."""
    found = round_to_scale(weight, format_, *optimal_affine(weight, format_, 0)).dequantize()
    return np.asarray(np.square(found.astype(np.float64) - weight).sum(axis=1))


def error_between(row: NDArray[np.float32], low: float, high: float, format_: IntegerFormat) -> float:
    """Squared error with the lowest and highest codes at about `low` and `high`."""
    scale = (high - low) / (2**format_.bits - 1)
    zero_point = np.clip(np.rint(format_.lowest_code - low / scale), format_.lowest_code, format_.highest_code)
    codes = np.clip(np.rint(row / scale) + zero_point, format_.lowest_code, format_.highest_code)
    return float(np.square((codes - zero_point) * scale - row).sum())


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("draw", DRAWS)
def test_as_good_as_all_pairs_of_ends(bits: int, draw: str) -> None:
    weight = DRAWS[draw](np.random.default_rng(bits), (6, 48)).astype(np.float32)
    format_ = affine(bits)
    best = []
    for row in weight:
        lows, highs = np.linspace(0, min(row.min(), 0), 41), np.linspace(0, max(row.max(), 0), 41)
        best.append(
            min(error_between(row, *ends, format_) for ends in itertools.product(lows, highs) if ends[0] < ends[1])
        )
    found = row_errors(weight, format_)
    assert (found < 1.6 * np.array(best)).all()
    assert found.sum() < 1.1 * sum(best)


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("draw", DRAWS)
def test_never_worse_than_the_whole_range(bits: int, draw: str) -> None:
    weight = DRAWS[draw](np.random.default_rng(bits), (6, 300)).astype(np.float32)
    whole = [error_between(row, min(row.min(), 0), max(row.max(), 0), affine(bits)) for row in weight]
    assert (row_errors(weight, affine(bits)) <= np.array(whole) * (1 + 1e-5)).all()


@pytest.mark.parametrize("block", [16, 32])
def test_each_block_is_as_a_row_of_its_own(block: int) -> None:
    weight = np.random.default_rng(0).standard_normal((40, 64)).astype(np.float32)
    scale, zero_point = optimal_affine(weight, affine(3, Granularity.BLOCK, block), 0)
    rows_scale, rows_zero = optimal_affine(weight.reshape(-1, block), affine(3), 0)
    assert scale.shape == zero_point.shape == (40 * 64 // block, 1, 1)
    assert np.array_equal(scale.ravel(), round_scales(rows_scale).ravel())
    assert np.array_equal(zero_point.ravel(), rows_zero.ravel())


def test_integers_survive() -> None:
    rng = np.random.default_rng(0)
    for bits in range(2, 9):
        format_ = affine(bits)
        codes = rng.integers(0, 2**bits, (5, 400))
        codes[:, 0], codes[:, 1] = 0, 2**bits - 1
        weight = ((codes - rng.integers(0, 2**bits, (5, 1))) * 0.25).astype(np.float32)
        assert row_errors(weight, format_).max() < 1e-9 * np.square(weight).sum()


def test_zeros_and_numbers_too_small_take_scale_one() -> None:
    weight = np.zeros((3, 20), np.float32)
    weight[1] = 1e-44
    weight[2] = np.linspace(1, 2, 20)
    scale, zero_point = optimal_affine(weight, affine(4), 0)
    assert scale[:2].tolist() == [[1], [1]]
    assert zero_point[:2].tolist() == [[0], [0]]
    assert 0.05 < scale[2, 0] < 0.2


def test_a_whole_tensor_is_one_long_row() -> None:
    weight = np.random.default_rng(1).standard_normal((300, 400)).astype(np.float32) + 1
    scale, zero_point = optimal_affine(weight, affine(4, Granularity.TENSOR), 0)
    row_scale, row_zero = optimal_affine(weight.reshape(1, -1), affine(4), 0)
    assert scale.shape == zero_point.shape == ()
    assert (scale.item(), zero_point.item()) == (row_scale.item(), row_zero.item())


def test_refuses_what_is_not_finite() -> None:
    with pytest.raises(ValueError, match="finite float32"):
        optimal_affine(np.full((2, 3), np.inf, np.float32), affine(4), 0)

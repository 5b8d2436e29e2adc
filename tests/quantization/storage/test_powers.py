"""Weights on power grids: the best of all grids by brute force, each weight at its nearest value, exact in the file."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from quantization.formats import IntegerFormat, PowerFormat
from quantization.rounding.nearest import round_nearest
from quantization.rounding.power_grids import EXPONENTS, power_table, round_power
from quantization.storage.parts import storage
from quantization.storage.powers import PowerWeight

ALL_BITS = range(2, 9)


def _draw(name: str, shape: tuple[int, ...], seed: int) -> NDArray[np.float32]:
    generator = np.random.default_rng(seed)
    draw = {
        "uniform": lambda: generator.uniform(-1, 1, shape),
        "normal": lambda: generator.standard_normal(shape),
        "laplace": lambda: generator.laplace(size=shape),
        "student": lambda: generator.standard_t(3, size=shape),
        "exponential": lambda: -generator.exponential(size=shape),
    }
    return draw[name]().astype(np.float32)


def _squared_error(weight: NDArray[np.float32], values: NDArray[np.float32]) -> float:
    return float(np.square(values - weight, dtype=np.float64).sum())


@pytest.mark.parametrize("bits", ALL_BITS)
@pytest.mark.parametrize("exponent", EXPONENTS)
def test_a_table_is_the_power_of_each_code(bits: int, exponent: float) -> None:
    table = power_table(bits, exponent)
    half = 1 << (bits - 1)
    codes = np.arange(-half, half)
    expected = np.sign(codes) * np.abs(codes) ** (1 / exponent)
    # near 0 float16 has steps of 2**-24
    np.testing.assert_allclose(table[codes], expected * half / -expected[0], rtol=2**-11, atol=2**-25)
    assert exponent != 1 or np.array_equal(table[codes], codes)


@pytest.mark.parametrize("bits", [2, 3, 4, 6])
@pytest.mark.parametrize("name", ["uniform", "normal", "laplace", "student", "exponential"])
def test_as_good_as_brute_force(bits: int, name: str) -> None:
    weight = _draw(name, (6, 64), bits)
    found = round_power(weight, PowerFormat(bits), 0)
    best = np.inf
    for exponent in EXPONENTS:
        values = np.sort(power_table(bits, exponent)).astype(np.float64)
        total = 0.0
        for row in weight:
            scales = np.abs(row).max() / 2 ** (bits - 1) * np.geomspace(1 / 16, 10, 1500)
            errors = []
            for grid in (values, -values[::-1]):
                scaled = row / scales[:, None]
                nearest = grid[np.searchsorted((grid[1:] + grid[:-1]) / 2, scaled)]
                errors.append((np.square(nearest - scaled).sum(axis=1) * scales**2).min())
            total += min(errors)
        best = min(best, total)
    # dense search picks the luckiest of many ripples of each row
    assert _squared_error(weight, found.dequantize()) < best * (1.03 if bits <= 4 else 1.1)


@pytest.mark.parametrize("bits", ALL_BITS)
@pytest.mark.parametrize("name", ["uniform", "normal", "laplace", "student"])
def test_integers_are_one_of_the_grids(bits: int, name: str) -> None:
    weight = _draw(name, (16, 256), 0)
    integers = _squared_error(weight, round_nearest(weight, IntegerFormat(bits), 0).dequantize())
    assert _squared_error(weight, round_power(weight, PowerFormat(bits), 0).dequantize()) < integers * 1.01


@pytest.mark.parametrize("bits", [4, 5, 8])
def test_heavy_tails_gain_half_a_bit_and_more(bits: int) -> None:
    weight = _draw("student", (16, 1024), 1)
    power = _squared_error(weight, round_power(weight, PowerFormat(bits), 0).dequantize())
    assert power < _squared_error(weight, round_nearest(weight, IntegerFormat(bits), 0).dequantize()) * 0.5


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_each_weight_takes_its_nearest_value(axis: int) -> None:
    weight = _draw("student", (4, 5, 6), 2)
    found = round_power(weight, PowerFormat(4), axis)
    assert found.scale.shape == tuple(n if place == axis % 3 else 1 for place, n in enumerate(weight.shape))
    values = found.table.astype(np.float32) * found.scale[..., None]
    nearest = np.abs(values - weight[..., None]).min(axis=-1)
    np.testing.assert_allclose(np.abs(found.dequantize() - weight), nearest, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("axis", [0, 2])
def test_parts_are_the_whole(axis: int) -> None:
    weight = _draw("normal", (300, 40, 9), 1)
    found = round_power(weight, PowerFormat(3), axis)
    values = np.sort(found.table.astype(np.float32))
    distances = np.abs(weight / found.scale - values[:, None, None, None])
    np.testing.assert_array_equal(found.codes, distances.argmin(axis=0) - 4)


@given(st.sampled_from(ALL_BITS), st.sampled_from(EXPONENTS), st.integers(-20, 20), st.booleans())
@settings(max_examples=40, deadline=None)
def test_weights_on_a_grid_survive(bits: int, exponent: float, power: int, negative: bool) -> None:
    half = 1 << (bits - 1)
    codes = np.arange(-half, half, dtype=np.int8)[None]
    scale = np.full((1, 1), np.ldexp(-1.0 if negative else 1.0, power), dtype=np.float32)
    weight = PowerWeight(PowerFormat(bits), codes, scale, power_table(bits, exponent)).dequantize()
    found = round_power(weight, PowerFormat(bits), 0)
    np.testing.assert_allclose(found.dequantize(), weight, rtol=1e-4, atol=1e-6 * np.abs(weight).max())


def test_zero_and_vanishing_channels_take_scale_one() -> None:
    weight = np.array([[0, 0, 0], [1, -1, 0.5], [1e-45, 0, -1e-45]], dtype=np.float32)
    for bits in ALL_BITS:
        found = round_power(weight, PowerFormat(bits), 0)
        assert found.scale[0] == found.scale[2] == 1
        assert not found.codes[[0, 2]].any()
        assert found.codes[1].any()


@pytest.mark.parametrize("bits", ALL_BITS)
def test_the_table_is_what_it_costs_more_than_integers(bits: int) -> None:
    sizes = [
        sum(part.size_bytes for part in storage(format_, (64, 64), 0).parts)
        for format_ in (PowerFormat(bits), IntegerFormat(bits))
    ]
    assert sizes[0] - sizes[1] == 2 * 2**bits


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (np.array([0, 1, -2, -1], dtype=np.float32), r"float16 \[4\], got float32 \[4\]"),
        (np.array([0, 1, 2, -2, -1], dtype=np.float16), r"float16 \[4\], got float16 \[5\]"),
        (np.array([0, 1, -1, -2], dtype=np.float16), "rise with their codes"),
        (np.array([0, np.inf, -2, -1], dtype=np.float16), "finite"),
        (np.array([0.5, 1, -2, -1], dtype=np.float16), "0 for code 0"),
    ],
)
def test_refuses_what_is_no_grid(table: NDArray[np.floating], message: str) -> None:
    codes, scale = np.zeros((1, 4), dtype=np.int8), np.ones((1, 1), dtype=np.float32)
    with pytest.raises(ValueError, match=message):
        PowerWeight(PowerFormat(2), codes, scale, table)


def test_refuses_codes_out_of_range_and_weights_that_are_not_finite() -> None:
    with pytest.raises(ValueError, match="holds codes -2 to 1, got 2 to 2"):
        PowerWeight(
            PowerFormat(2),
            np.full((1, 4), 2, dtype=np.int8),
            np.ones((1, 1), dtype=np.float32),
            power_table(2, 0.5),
        )
    with pytest.raises(ValueError, match="finite"):
        round_power(np.array([[np.nan, 1]], dtype=np.float32), PowerFormat(4), 0)

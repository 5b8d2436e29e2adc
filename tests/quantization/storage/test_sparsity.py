"""The share of codes that stand for 0, against what is counted by hand."""

from __future__ import annotations

import numpy as np
import pytest

from quantization.formats import (
    CodebookFormat,
    CodedFormat,
    Granularity,
    HadamardFormat,
    HalfFormat,
    IntegerFormat,
    PowerFormat,
)
from quantization.storage.codebooks import CodebookWeight
from quantization.storage.coded import CodedWeight
from quantization.storage.halves import HalfWeight
from quantization.storage.powers import PowerWeight
from quantization.storage.rotations import HadamardWeight
from quantization.storage.weights import IntegerWeight

CODES = np.array([[0, 1, -1, 0], [1, 0, 1, 1]], dtype=np.int8)
SCALE = np.array([[0.5], [2.0]], dtype=np.float32)


def test_integers() -> None:
    assert IntegerWeight(IntegerFormat(4), CODES, SCALE).sparsity() == pytest.approx(3 / 8)


def test_with_zero_points_another_code_stands_for_0() -> None:
    zero_point = np.array([[1], [1]], dtype=np.int8)
    weight = IntegerWeight(IntegerFormat(4, Granularity.CHANNEL, False), CODES, SCALE, zero_point)
    assert weight.sparsity() == pytest.approx(4 / 8)


def test_a_table_may_have_no_0_at_all() -> None:
    none = np.zeros(0)
    for table, share in (([0.25, 1, 2, -1], 0.0), ([0.25, 0, 2, -1], 4 / 8)):
        values = np.array([[[number] for number in table]] * 2, dtype=np.float16)
        weight = CodebookWeight(
            CodebookFormat(2),
            CODES,
            values,
            np.array(1, np.float32),
            none.astype(np.int32),
            none.astype(np.float32),
        )
        assert weight.sparsity() == pytest.approx(share)


def test_power_grids_halves_and_coded_weights() -> None:
    table = np.array([0, 1, -3, -1], dtype=np.float16)
    assert PowerWeight(PowerFormat(2), CODES, SCALE, table).sparsity() == pytest.approx(3 / 8)
    assert HalfWeight(HalfFormat(), CODES.astype(np.float16)).sparsity() == pytest.approx(3 / 8)
    codes = np.zeros((10, 20), dtype=np.int8)
    codes[0, :5] = 1
    assert CodedWeight(CodedFormat(20), codes, np.array(0.1, np.float32)).sparsity() == pytest.approx(195 / 200)


def test_of_rotated_weights_the_codes_count_and_not_the_values() -> None:
    codes = np.zeros((2, 8), dtype=np.int8)
    codes[0, 0] = 1  # spread over the whole row
    weight = HadamardWeight(HadamardFormat(4), codes, SCALE)
    assert weight.sparsity() == pytest.approx(15 / 16)
    assert np.count_nonzero(weight.dequantize()) == 8

"""Codes and tables by turns: against every single change of a code, and least squares in plain numpy."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from quantization.formats import CodebookFormat
from quantization.plans.codebook_descent import codebook_descent
from quantization.rounding.codebook_tables import codebook
from quantization.rounding.convolution import ConvReduction
from quantization.rounding.reduction import MatrixReduction, Reduction
from quantization.storage.codebooks import CodebookWeight

CASES: dict[str, tuple[Reduction, tuple[int, ...], int]] = {
    "matmul": (MatrixReduction(0, -1), (24, 7), 1),
    "gemm": (MatrixReduction(1, 1), (7, 24), 0),
    "conv groups": (ConvReduction(2, (3,), (1,), (1,), (0, 0)), (6, 8, 3), 0),
}
FORMATS = [CodebookFormat(2), CodebookFormat(2, 200), CodebookFormat(4), CodebookFormat(3, 100)]


def layer(case: str, seed: int) -> tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.float64]]:
    """A weight, itself as a matrix, and correlated moments."""
    view, shape, _ = CASES[case]
    rng = np.random.default_rng(seed)
    weight = rng.laplace(size=shape).astype(np.float32)
    target = view.to_matrix(weight).astype(np.float64)
    x = rng.standard_normal((target.shape[0], target.shape[2], 90)) + 0.7
    x = x + 0.7 * np.roll(x, 1, axis=1)
    return weight, target, x @ x.swapaxes(1, 2)


def rows(weight: CodebookWeight, view: Reduction) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Values and what is kept `[rows, reduced]`, and the tables `[rows, levels]`: a channel is a row here."""
    kept = np.zeros(weight.shape, dtype=np.bool_)
    kept.flat[weight.positions] = True
    values, mask = (
        view.to_matrix(array).reshape(-1, view.to_matrix(kept).shape[2]) for array in (weight.dequantize(), kept)
    )
    tables = np.moveaxis(weight.table, 1, 2).reshape(-1, weight.table.shape[1]).astype(np.float64)
    return values.astype(np.float64), mask, tables * weight.factor


def errors(values: NDArray[Any], target: NDArray[Any], hessian: NDArray[Any]) -> NDArray[np.float64]:
    off = values.reshape(target.shape) - target
    return np.asarray(np.einsum("grk,gkl,grl->gr", off, hessian, off)).ravel()


@pytest.mark.parametrize("format_", FORMATS, ids=lambda format_: format_.name)
@pytest.mark.parametrize("case", CASES)
def test_no_row_gets_worse_and_no_single_code_gains(case: str, format_: CodebookFormat) -> None:
    view, _, axis = CASES[case]
    weight, target, hessian = layer(case, format_.bits)
    start = codebook(weight, format_, axis)
    found = codebook_descent(start, target, hessian, view, 100)
    assert found.format == format_
    assert found.positions.tobytes() == start.positions.tobytes()
    before = errors(rows(start, view)[0], target, hessian)
    values, kept, tables = rows(found, view)
    after = errors(values, target, hessian)
    assert (after <= before * (1 + 1e-6)).all()
    assert after.sum() < 0.95 * before.sum()
    for column, level in itertools.product(range(values.shape[1]), range(tables.shape[1])):
        moved = values.copy()
        moved[:, column] = np.where(kept[:, column], moved[:, column], tables[:, level])
        # tables moved to float16 after the last sweep
        assert (errors(moved, target, hessian) >= after * (1 - 2e-3)).all()


@pytest.mark.parametrize("case", CASES)
def test_tables_are_the_best_for_their_codes(case: str) -> None:
    """One sweep; entries are float16, so that the error may be a little above that of least squares."""
    view, _, axis = CASES[case]
    weight, target, hessian = layer(case, 5)
    found = codebook_descent(codebook(weight, CodebookFormat(3), axis), target, hessian, view, 1)
    values, _, tables = rows(found, view)
    after = errors(values, target, hessian)
    per_group = len(values) // len(hessian)
    for row, own in enumerate(values):
        upper = np.linalg.cholesky(hessian[row // per_group]).T
        uses = (own[:, None] == tables[row]).astype(np.float64)
        aim = upper @ target.reshape(values.shape)[row]
        solution = np.linalg.lstsq(upper @ uses, aim, rcond=None)[0]
        assert after[row] == pytest.approx(np.square(upper @ uses @ solution - aim).sum(), rel=2e-3)


def test_what_is_kept_takes_the_best_number() -> None:
    """With three of 150 weights kept, the error's slope along them vanishes but for the last table."""
    view, _, axis = CASES["matmul"]
    weight, target, hessian = layer("matmul", 6)
    found = codebook_descent(codebook(weight, CodebookFormat(4, 200), axis), target, hessian, view, 100)
    values, kept, _ = rows(found, view)
    slopes = (values - target[0]) @ hessian[0]
    assert kept.sum() == len(found.positions) == 4
    assert np.abs(slopes[kept]).max() < 0.02 * np.abs(slopes).max()
    assert (found.values != weight.flat[found.positions]).all()


def test_without_correlation_it_is_k_means() -> None:
    """Values at their nearest entries, entries at their means: a start that is best already stays."""
    rng = np.random.default_rng(7)
    weight = rng.standard_normal((60, 3)).astype(np.float32)
    start = codebook(weight, CodebookFormat(2), 1)
    found = codebook_descent(start, weight.T[None], np.eye(60)[None], MatrixReduction(0, -1), 4)
    np.testing.assert_array_equal(found.dequantize(), start.dequantize())


def test_weights_of_any_size_and_no_sweep() -> None:
    view, _, axis = CASES["gemm"]
    weight, target, hessian = layer("gemm", 8)
    start = codebook(weight, CodebookFormat(3), axis)
    found = codebook_descent(start, target, hessian, view)
    tiny = np.float32(2.0**-60)
    small = codebook_descent(codebook(weight * tiny, CodebookFormat(3), axis), target * tiny, hessian * 1e30, view)
    np.testing.assert_allclose(small.dequantize() / tiny, found.dequantize(), rtol=1e-3)
    assert codebook_descent(start, target, hessian, view, 0) is start


def test_rows_of_several_tables_stay() -> None:
    view = ConvReduction(1, (3,), (1,), (1,), (0, 0), transposed=True)
    weight = np.random.default_rng(9).standard_normal((2, 4, 3)).astype(np.float32)
    start = codebook(weight, CodebookFormat(2), 1)
    assert codebook_descent(start, view.to_matrix(weight), np.eye(6)[None], view) is start


def test_a_check_ends_it() -> None:
    view, _, axis = CASES["matmul"]
    weight, target, hessian = layer("matmul", 10)

    def check() -> None:
        raise TimeoutError

    with pytest.raises(TimeoutError):
        codebook_descent(codebook(weight, CodebookFormat(2), axis), target, hessian, view, 1, check)

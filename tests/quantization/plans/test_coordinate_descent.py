from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from quantization.formats import Granularity, IntegerFormat, PowerFormat
from quantization.plans.coordinate_descent import coordinate_descent, sweeps_for
from quantization.rounding.convolution import ConvReduction
from quantization.rounding.formats import round_to_formats
from quantization.rounding.nearest import round_nearest, round_to_scale
from quantization.rounding.power_grids import round_power
from quantization.rounding.reduction import MatrixReduction, NotReducible, Reduction
from quantization.storage.powers import PowerWeight, ascending
from quantization.storage.weights import IntegerWeight

CASES: dict[str, tuple[Reduction, tuple[int, ...], int]] = {
    "matmul": (MatrixReduction(0, -1), (20, 7), 1),
    "gemm": (MatrixReduction(1, 1), (7, 20), 0),
    "conv groups": (ConvReduction(2, (3,), (1,), (1,), (0, 0)), (6, 4, 3), 0),
    "transposed": (ConvReduction(2, (3,), (1,), (1,), (0, 0), transposed=True), (8, 3, 3), 1),
}


def moments(rng: np.random.Generator, groups: int, reduced: int) -> NDArray[np.float64]:
    x = rng.standard_normal((groups, reduced, 3 * reduced)) + 0.7
    return x @ x.swapaxes(1, 2)


def errors(
    weight: IntegerWeight | PowerWeight, target: NDArray[np.float64], hessian: NDArray[np.float64], view: Reduction
):
    off = view.to_matrix(weight.dequantize()).astype(np.float64) - target
    return np.einsum("grk,gkl,grl->gr", off, hessian, off)


@pytest.mark.parametrize("granularity", [Granularity.CHANNEL, Granularity.TENSOR])
@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("case", CASES)
def test_never_raises_the_error_and_ends_where_no_code_gains(case: str, bits: int, granularity: Granularity) -> None:
    view, shape, axis = CASES[case]
    rng = np.random.default_rng(bits)
    weight = rng.standard_normal(shape).astype(np.float32)
    start = round_nearest(weight, IntegerFormat(bits, granularity), axis)
    target = view.to_matrix(weight).astype(np.float64)
    hessian = moments(rng, target.shape[0], target.shape[2])
    found = coordinate_descent(start, target, hessian, view, 100)
    before, after = (errors(w, target, hessian, view) for w in (start, found))
    assert after.sum() < (0.9 if bits < 8 else 0.95) * before.sum()
    if granularity is Granularity.CHANNEL:
        groups = 0 if case == "transposed" else ()  # there a scale serves a row of every group
        assert (after.sum(axis=groups) <= before.sum(axis=groups) * (1 + 1e-5)).all()
    assert found.format == start.format
    codes = view.to_matrix(found.codes)
    row_scales = view.to_matrix(np.broadcast_to(found.scale, shape))
    for column, step in itertools.product(range(codes.shape[2]), (-1, 1)):
        moved = codes.astype(np.float64)
        moved[:, :, column] = (moved[:, :, column] + step).clip(start.format.lowest_code, start.format.highest_code)
        off = moved * row_scales - target
        assert (np.einsum("grk,gkl,grl->gr", off, hessian, off) >= after * (1 - 1e-4)).all()


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("case", CASES)
def test_power_grids_end_where_no_value_gains(case: str, bits: int) -> None:
    view, shape, axis = CASES[case]
    rng = np.random.default_rng(bits)
    weight = rng.laplace(size=shape).astype(np.float32)
    start = round_power(weight, PowerFormat(bits), axis)
    target = view.to_matrix(weight).astype(np.float64)
    hessian = moments(rng, target.shape[0], target.shape[2])
    found = coordinate_descent(start, target, hessian, view, 100)
    before, after = (errors(w, target, hessian, view) for w in (start, found))
    assert after.sum() < 0.95 * before.sum()
    assert found.table.tobytes() == start.table.tobytes()
    values, row_scales = view.to_matrix(found.dequantize()), view.to_matrix(np.broadcast_to(found.scale, shape))
    for column, number in itertools.product(range(values.shape[2]), ascending(found.table)):
        moved = values.astype(np.float64)
        moved[:, :, column] = float(number) * row_scales[:, :, column]
        off = moved - target
        assert (np.einsum("grk,gkl,grl->gr", off, hessian, off) >= after * (1 - 1e-4)).all()


@pytest.mark.parametrize("case", ["matmul", "gemm", "conv groups"])
@pytest.mark.parametrize(
    "format_",
    [
        IntegerFormat(2, Granularity.BLOCK, True, 16),
        IntegerFormat(4, Granularity.BLOCK, False, 16),
        IntegerFormat(3, Granularity.CHANNEL, False),
        IntegerFormat(2, Granularity.TENSOR, False),
    ],
    ids=lambda format_: format_.name,
)
def test_blocks_and_zero_points_end_where_no_code_gains(case: str, format_: IntegerFormat) -> None:
    view, shape, axis = CASES[case]
    shape = tuple(32 if length in (20, 4) else 1 if length == 3 else length for length in shape)
    view = ConvReduction(2, (1,), (1,), (1,), (0, 0)) if case == "conv groups" else view
    rng = np.random.default_rng(format_.bits)
    weight = (rng.standard_normal(shape) + 0.5).astype(np.float32)
    (start,), _ = round_to_formats(weight, [format_], axis, NotReducible(""))
    assert isinstance(start, IntegerWeight)
    target = view.to_matrix(weight).astype(np.float64)
    hessian = moments(rng, target.shape[0], target.shape[2])
    found = coordinate_descent(start, target, hessian, view, 100)
    before, after = (errors(w, target, hessian, view) for w in (start, found))
    assert after.sum() < 0.9 * before.sum()
    assert (after >= 0).all()
    if format_.block:
        assert found.scale.tobytes() == start.scale.tobytes()
    assert (found.zero_point is None) == format_.symmetric
    codes = found.codes.astype(np.int64)
    for column, step in itertools.product(range(target.shape[2]), (-1, 1)):
        moving = np.zeros(target.shape, dtype=np.int64)
        moving[:, :, column] = step
        moved = codes + view.from_matrix(moving, shape)
        moved = replace(found, codes=moved.clip(format_.lowest_code, format_.highest_code).astype(np.int8))
        assert (errors(moved, target, hessian, view) >= after * (1 - 1e-4)).all()


def test_without_correlation_it_is_nearest() -> None:
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((9, 4)).astype(np.float32)
    nearest = round_nearest(weight, IntegerFormat(3), 1)
    start = round_to_scale(weight + np.float32(0.4), IntegerFormat(3), nearest.scale)
    found = coordinate_descent(start, weight.T[None].astype(np.float64), np.eye(9)[None], MatrixReduction(0, -1), 1)
    np.testing.assert_array_equal(found.codes, nearest.codes)


def test_no_sweep_no_change() -> None:
    weight = np.random.default_rng(1).standard_normal((5, 3)).astype(np.float32)
    start = round_nearest(weight, IntegerFormat(2), 1)
    found = coordinate_descent(start, weight.T[None].astype(np.float64), np.eye(5)[None], MatrixReduction(0, -1), 0)
    assert found.codes.tobytes() == start.codes.tobytes()
    assert found.scale.tobytes() == start.scale.tobytes()


def test_one_sweep_is_the_plain_one() -> None:
    """Columns that are looked at together are as columns looked at one by one."""
    rng = np.random.default_rng(5)
    weight = rng.standard_normal((90, 6)).astype(np.float32)
    start = round_nearest(weight, IntegerFormat(5), 1)
    target, hessian = weight.T.astype(np.float64), moments(rng, 1, 90)[0]
    codes, scales = start.codes.T.astype(np.float64), start.scale.T.astype(np.float64)
    for column in range(90):
        slope = (codes * scales - target) @ hessian[:, column, None]
        best = np.rint(codes[:, column, None] - slope / (scales * hessian[column, column]))
        codes[:, column] = best.clip(-16, 15)[:, 0]
    calls: list[int] = []
    view = MatrixReduction(0, -1)
    found = coordinate_descent(start, target[None], hessian[None], view, 1, lambda: calls.append(0))
    np.testing.assert_array_equal(found.codes, codes.T)
    assert (found.codes != start.codes).any()
    assert len(calls) == 1


def test_a_check_ends_a_sweep_within_it() -> None:
    rng = np.random.default_rng(6)
    weight = rng.standard_normal((400, 2)).astype(np.float32)
    start = round_nearest(weight, IntegerFormat(3), 1)
    calls: list[int] = []

    def check() -> None:
        calls.append(0)
        if len(calls) == 3:
            raise TimeoutError

    with pytest.raises(TimeoutError):
        coordinate_descent(
            start, weight.T[None].astype(np.float64), moments(rng, 1, 400), MatrixReduction(0, -1), 1, check
        )


def test_wide_weights_get_fewer_sweeps() -> None:
    assert [sweeps_for(columns, 4) for columns in (1, 1024, 1025, 2048, 2049)] == [4, 4, 1, 1, 0]
    assert sweeps_for(1025, 0) == 0

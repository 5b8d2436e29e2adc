"""GPTQ of blocks, zero points, tables of values and rotated weights, against the textbook's loop in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import helper

from network.graph import Network
from quantization.formats import Granularity, IntegerFormat
from quantization.rounding.affine_ranges import optimal_affine
from quantization.rounding.gptq import gptq, prepare
from quantization.rounding.nearest import round_nearest, round_to_scale
from quantization.rounding.ranges import optimal_scales
from quantization.rounding.statistics import InputStatistics, input_statistics
from quantization.storage.half_scales import round_scales
from quantization.storage.weights import IntegerWeight
from tests.quantization.rounding.tables import gptq_to_tables

MakeNetwork = Callable[..., Network]
Doubles = NDArray[np.float64]
INTEGERS = [
    IntegerFormat(bits, granularity, symmetric, 16 if granularity is Granularity.BLOCK else 0)
    for bits in (2, 4, 8)
    for granularity in Granularity
    for symmetric in (True, False)
]


def textbook(rows: Doubles, hessian: Doubles, nearest: Callable[[int, Doubles], Doubles]) -> Doubles:
    """Values `[rows, K]` by algorithm 1 of arXiv 2210.17323 with act-order; `nearest` rounds those of one column."""
    order = np.argsort(-np.diag(hessian), kind="stable")
    damped = hessian + 0.01 * np.trace(hessian) / len(hessian) * np.eye(len(hessian))
    upper = np.linalg.cholesky(np.linalg.inv(damped[np.ix_(order, order)])).T  # H^-1 = U' U
    left, found = rows[:, order].astype(np.float64), np.empty(rows.shape)
    for column, original in enumerate(order):
        found[:, original] = nearest(int(original), left[:, column])
        error = (left[:, column] - found[:, original]) / upper[column, column]
        left[:, column + 1 :] -= np.outer(error, upper[column, column + 1 :])
    return found


def errors(deltas: NDArray[np.floating], hessian: Doubles) -> Doubles:
    """`d' H d` of every row, H damped."""
    damped = hessian + 0.01 * np.trace(hessian) / len(hessian) * np.eye(len(hessian))
    return np.asarray(np.einsum("rk,kl,rl->r", deltas, damped, deltas))


@pytest.fixture(params=["conv", "gemm", "transposed gemm"])
def layer(
    request: pytest.FixtureRequest, make_network: MakeNetwork
) -> tuple[NDArray[np.float32], InputStatistics, int]:
    """A weight that sums over a multiple of 16, with rows of one sign among others; statistics; the channel axis."""
    rng = np.random.default_rng(5)
    shape, input_shape, axis = {
        "conv": ((10, 8, 2, 3), (16, 16, 7, 8), 0),
        "gemm": ((320, 12), (700, 320), 1),
        "transposed gemm": ((12, 64), (300, 64), 0),
    }[request.param]
    attributes: dict[str, Any] = {"conv": {"group": 2}, "gemm": {}, "transposed gemm": {"transB": 1}}[request.param]
    inputs = rng.standard_normal(input_shape).astype(np.float32)
    inputs = np.maximum(inputs + 0.7 * np.roll(inputs, 1, axis=1), 0)
    weight = (
        rng.standard_normal(shape)
        + np.moveaxis(np.arange(shape[axis]) % 3, 0, -1).reshape([-1 if a == axis else 1 for a in range(len(shape))])
    ).astype(np.float32)
    node = helper.make_node("Conv" if len(shape) > 2 else "Gemm", ["x", "w"], ["y"], **attributes)
    network = make_network([node], {"x": inputs}, {"w": weight})
    statistics = input_statistics(network, network.sites[0])
    assert isinstance(statistics, InputStatistics)
    statistics.add(network.sites[0].layers[0], inputs)
    return weight, statistics, network.sites[0].channel_axis


def started(weight: NDArray[np.float32], format_: IntegerFormat, axis: int) -> IntegerWeight:
    """A weight at the scales and zero points from which GPTQ starts."""
    if format_.symmetric:
        return round_to_scale(weight, format_, optimal_scales(weight, format_, axis))
    return round_to_scale(weight, format_, *optimal_affine(weight, format_, axis))


def spread(shared: NDArray[np.generic], format_: IntegerFormat, shape: tuple[int, ...]) -> NDArray[np.generic]:
    """A scale or zero point for every weight."""
    if format_.granularity is not Granularity.BLOCK:
        return np.broadcast_to(shared, shape)
    return np.broadcast_to(shared, (len(shared), format_.block, shared.shape[2])).reshape(shape)


def by_scale(
    format_: IntegerFormat, scales: NDArray[np.float32], offsets: NDArray[np.int8]
) -> Callable[[int, Doubles], Doubles]:
    """Rounding of the values of one column, by scales and zero points `[rows, K]`."""

    def nearest(column: int, values: Doubles) -> Doubles:
        scale, offset = scales[:, column].astype(float), offsets[:, column].astype(float)
        codes = np.clip(np.rint(values / scale) + offset, format_.lowest_code, format_.highest_code)
        return np.asarray((codes - offset) * scale)

    return nearest


def test_integers_are_those_of_the_textbook(layer: tuple[NDArray[np.float32], InputStatistics, int]) -> None:
    weight, statistics, axis = layer
    to_matrix = statistics.reduction.to_matrix
    matrix = to_matrix(weight)
    for format_, found in zip(INTEGERS, gptq(prepare(weight, statistics), INTEGERS, axis), strict=True):
        start = started(weight, format_, axis)
        zero_point = np.zeros_like(start.scale, np.int8) if start.zero_point is None else start.zero_point
        if found.zero_point is not None:
            assert np.array_equal(found.zero_point, zero_point)
        scales, offsets = (to_matrix(spread(a, format_, weight.shape)) for a in (start.scale, zero_point))
        for group, rows in enumerate(matrix):
            expected = textbook(rows, statistics.hessian[group], by_scale(format_, scales[group], offsets[group]))
            values = (to_matrix(found.codes)[group].astype(float) - offsets[group]) * scales[group]
            nearest_values = to_matrix(start.dequantize())[group]
            # rows may keep their nearest codes; and float32 may send a value between two codes the other way
            kept = np.all(np.isclose(values, nearest_values, rtol=1e-5), axis=1)
            same = np.all(np.isclose(values, expected, rtol=1e-4), axis=1)
            assert np.mean(kept | same) > 0.6, format_.name
            totals = [errors(d[~kept], statistics.hessian[group]).sum() for d in (values - rows, expected - rows)]
            assert totals[0] == pytest.approx(totals[1], rel=0.05), format_.name


def test_is_better_than_nearest_and_scales_can_be_stored(
    layer: tuple[NDArray[np.float32], InputStatistics, int],
) -> None:
    weight, statistics, axis = layer
    to_matrix = statistics.reduction.to_matrix
    for found in gptq(prepare(weight, statistics), INTEGERS, axis):
        totals = [0.0, 0.0]
        for place, values in enumerate((found, round_nearest(weight, found.format, axis))):
            deltas = to_matrix(values.dequantize()) - to_matrix(weight)
            totals[place] = sum(errors(d, h).sum() for d, h in zip(deltas, statistics.hessian, strict=True))
        assert totals[0] < 0.9 * totals[1], found.format.name
        if found.format.granularity is Granularity.BLOCK:
            assert np.array_equal(round_scales(found.scale), found.scale)


def test_formats_together_are_as_each_alone(layer: tuple[NDArray[np.float32], InputStatistics, int]) -> None:
    weight, statistics, axis = layer
    for whole, format_ in zip(gptq(prepare(weight, statistics), INTEGERS, axis), INTEGERS, strict=True):
        (alone,) = gptq(prepare(weight, statistics), [format_], axis)
        assert np.mean(alone.codes == whole.codes) > 0.9  # other product shapes round differently in float32
        np.testing.assert_allclose(alone.scale, whole.scale, rtol=0.02)


def test_refuses_blocks_that_do_not_fit(layer: tuple[NDArray[np.float32], InputStatistics, int]) -> None:
    weight, statistics, axis = layer
    with pytest.raises(ValueError, match="does not divide into blocks of 256"):
        gptq(prepare(weight, statistics), [IntegerFormat(4, Granularity.BLOCK, block=256)], axis)


def test_rotated(layer: tuple[NDArray[np.float32], InputStatistics, int]) -> None:
    weight, statistics, axis = layer
    reduced = statistics.hessian.shape[1]
    rotation = np.linalg.qr(np.random.default_rng(1).standard_normal((16, 16)))[0]

    def rotate(rows: NDArray[np.floating]) -> NDArray[np.floating]:
        blocks = rows.reshape(*rows.shape[:-1], -1, 16) @ rotation.astype(rows.dtype)
        return blocks.reshape(rows.shape)

    whole = np.kron(np.eye(reduced // 16), rotation)
    to_matrix = statistics.reduction.to_matrix
    prepared = prepare(weight, statistics, rotate=rotate)
    np.testing.assert_allclose(to_matrix(prepared.target), to_matrix(weight) @ whole, atol=1e-5)
    (found,) = gptq(prepared, [IntegerFormat(3)], axis)
    turned_back = to_matrix(found.dequantize()) @ whole.T
    nearest = to_matrix(round_nearest(prepared.target, IntegerFormat(3), axis).dequantize()) @ whole.T
    for group, hessian in enumerate(statistics.hessian):
        mine, other = (errors(m[group] - to_matrix(weight)[group], hessian).sum() for m in (turned_back, nearest))
        assert mine < 0.9 * other


@pytest.mark.parametrize("levels", [4, 16, 37, 256])
@pytest.mark.parametrize("keeps", [False, True])
def test_grids_are_those_of_the_textbook(
    layer: tuple[NDArray[np.float32], InputStatistics, int], levels: int, keeps: bool
) -> None:
    weight, statistics, axis = layer
    rng = np.random.default_rng(levels)
    channels = weight.shape[axis]
    spans = np.abs(np.moveaxis(weight, axis, 0).reshape(channels, -1)).max(axis=1)
    table = np.sort(rng.uniform(-1, 1, (channels, levels)) * spans[:, None], axis=1).astype(np.float32)
    kept = rng.random(weight.shape) < 0.02 if keeps else None
    prepared = prepare(weight, statistics)
    found = gptq_to_tables(prepared, table, axis, kept)
    to_matrix = statistics.reduction.to_matrix
    names = [channels if a == axis else 1 for a in range(weight.ndim)]
    owner = to_matrix(np.broadcast_to(np.arange(channels).reshape(names), weight.shape))[:, :, 0]
    mask = np.zeros_like(weight, dtype=bool) if kept is None else kept
    for group, rows in enumerate(to_matrix(weight)):
        own, stays = table[owner[group]].astype(float), to_matrix(mask)[group]
        values = to_matrix(found.values)[group].astype(float)
        by_code = np.take_along_axis(own, to_matrix(found.codes)[group].astype(int), axis=1)
        assert np.array_equal(values[~stays], by_code[~stays])
        expected = textbook(rows, statistics.hessian[group], in_tables(own, stays))
        totals = [errors(v - rows, statistics.hessian[group]) for v in (values, expected)]
        assert (totals[0] < 1.5 * totals[1] + 1e-6).all()
        assert totals[0].sum() < 1.02 * totals[1].sum()
        rounded = in_tables(own, stays)
        nearest = np.stack([rounded(column, rows[:, column].astype(float)) for column in range(rows.shape[1])], axis=1)
        assert totals[0].sum() < 0.95 * errors(nearest - rows, statistics.hessian[group]).sum()


def in_tables(tables: Doubles, stays: NDArray[np.bool_]) -> Callable[[int, Doubles], Doubles]:
    """Rounding of the values of one column to `tables` `[rows, levels]`; those that stay remain as they are."""

    def nearest(column: int, values: Doubles) -> Doubles:
        places = np.abs(values[:, None] - tables).argmin(axis=1)
        return np.where(stays[:, column], values, tables[np.arange(len(values)), places])

    return nearest


def test_grid_of_integers_is_gptq_of_integers(layer: tuple[NDArray[np.float32], InputStatistics, int]) -> None:
    weight, statistics, axis = layer
    format_ = IntegerFormat(4)
    prepared = prepare(weight, statistics)
    scale = optimal_scales(weight, format_, axis)
    table = np.sort(scale.reshape(-1, 1) * np.arange(-8, 8), axis=1).astype(np.float32)
    (integers,) = gptq(prepared, [format_], axis)
    found = gptq_to_tables(prepared, table, axis)
    factors = found.factors.reshape(scale.shape)
    same = np.isclose(found.values * factors, integers.dequantize(), rtol=1e-3)
    assert same.mean() > 0.97
    np.testing.assert_allclose(factors * scale, integers.scale, rtol=5e-3)

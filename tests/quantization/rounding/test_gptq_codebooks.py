"""GPTQ of codebooks: against least squares in plain numpy, rounding alone, and GPTQ to tables that stay."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper

from network.graph import Network
from quantization.formats import CodebookFormat, IntegerFormat
from quantization.rounding.codebook_tables import codebook, fit_tables
from quantization.rounding.gptq import Prepared, gptq, prepare
from quantization.rounding.gptq_codebooks import codebook_gptq
from quantization.rounding.statistics import InputStatistics, input_statistics
from tests.quantization.rounding.tables import gptq_to_tables

Floats = NDArray[np.float32]
Layer = tuple[Floats, InputStatistics]
MakeNetwork = Callable[..., Network]


def _correlated(shape: tuple[int, ...]) -> Floats:
    inputs = np.random.default_rng(3).standard_normal(shape).astype(np.float32)
    return np.asarray(np.maximum(inputs + np.roll(inputs, 1, axis=1) + np.roll(inputs, 2, axis=1), 0))


def _layer(make_network: MakeNetwork, node: onnx.NodeProto, inputs: Floats, shape: tuple[int, ...]) -> Layer:
    weight = np.random.default_rng(4).laplace(size=shape).astype(np.float32)
    network = make_network([node], {"x": inputs}, {"w": weight})
    (site,) = network.sites
    statistics = input_statistics(network, site)
    assert isinstance(statistics, InputStatistics)
    statistics.add(site.layers[0], inputs)
    return weight, statistics


@pytest.fixture
def matmul(make_network: MakeNetwork) -> Layer:
    """A weight `[40, 24]`, and the statistics of correlated inputs."""
    return _layer(make_network, helper.make_node("MatMul", ["x", "w"], ["y"]), _correlated((500, 40)), (40, 24))


def _errors(prepared: Prepared, values: Floats) -> NDArray[np.float64]:
    """`d H d'` of each row, `[groups, rows]`, H damped."""
    factor = prepared.factor
    deltas = factor.sort(prepared.reduction.to_matrix(values) - prepared.matrix).astype(np.float64)
    upper = factor.diagonal[:, :, None].astype(np.float64) * factor.upper
    return np.asarray(np.square(upper @ deltas).sum(axis=1))


def _importance(statistics: InputStatistics, shape: tuple[int, ...]) -> Floats:
    return np.broadcast_to(np.diag(statistics.hessian[0])[:, None], shape).astype(np.float32)


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_outputs_are_nearer_than_by_any_other_rounding(matmul: Layer, bits: int) -> None:
    weight, statistics = matmul
    prepared = prepare(weight, statistics)
    format_ = CodebookFormat(bits)
    (found,) = codebook_gptq(prepared, [format_], 1)
    importance = _importance(statistics, weight.shape)
    fitted = fit_tables(weight, format_, 1, importance)
    to_table = gptq_to_tables(prepared, fitted.tables, 1)
    (integers,) = gptq(prepare(weight, statistics), [IntegerFormat(bits)], 1)
    error = _errors(prepared, found.dequantize()).sum()
    assert error < 0.95 * _errors(prepared, to_table.values).sum()
    assert error < 0.8 * _errors(prepared, integers.dequantize()).sum()
    assert error < 0.8 * _errors(prepared, codebook(weight, format_, 1, importance).dequantize()).sum()


@pytest.mark.parametrize("outliers", [0, 200])
@pytest.mark.parametrize("bits", [2, 3])
def test_tables_are_the_best_for_their_codes(matmul: Layer, bits: int, outliers: int) -> None:
    weight, statistics = matmul
    prepared = prepare(weight, statistics)
    (found,) = codebook_gptq(prepared, [CodebookFormat(bits, outliers)], 1)
    factor = prepared.factor
    kept = np.zeros(weight.shape, dtype=np.bool_)
    kept.flat[found.positions] = True
    upper = (factor.diagonal[0][:, None] * factor.upper[0]).astype(np.float64)
    order = factor.order[0]
    errors = _errors(prepared, found.dequantize())[0]
    for row in range(24):
        codes = found.codes[order, row].astype(np.intp) % (1 << bits)
        uses = np.eye(1 << bits)[codes] * ~kept[order, row, None]
        fixed = np.where(kept[:, row], found.dequantize()[:, row], 0)
        target = upper @ (weight[:, row] - fixed)[order]
        solution = np.linalg.lstsq(upper @ uses, target, rcond=None)[0]
        best = np.square(upper @ uses @ solution - target).sum()
        assert errors[row] == pytest.approx(best, rel=1e-3)


def test_kept_weights_make_up_for_the_others(matmul: Layer) -> None:
    weight, statistics = matmul
    prepared = prepare(weight, statistics)
    formats = [CodebookFormat(2), CodebookFormat(2, 200)]
    without, found = codebook_gptq(prepared, formats, 1)
    assert _errors(prepared, found.dequantize()).sum() < 0.9 * _errors(prepared, without.dequantize()).sum()
    assert len(found.positions) == 20
    assert (found.values != weight.flat[found.positions]).any()


def test_groups_of_a_convolution_have_their_own_inputs(make_network: MakeNetwork) -> None:
    node = helper.make_node("Conv", ["x", "w"], ["y"], group=3)
    weight, statistics = _layer(make_network, node, _correlated((60, 6, 5, 5)), (9, 2, 3, 3))
    prepared = prepare(weight, statistics)
    for format_ in (CodebookFormat(2), CodebookFormat(3, 100)):
        (found,) = codebook_gptq(prepared, [format_], 0)
        alone = codebook(weight, format_, 0)
        assert (_errors(prepared, found.dequantize()) < _errors(prepared, alone.dequantize())).mean() > 0.7


def test_rows_of_several_tables_are_rounded_alone(make_network: MakeNetwork) -> None:
    node = helper.make_node("ConvTranspose", ["x", "w"], ["y"])
    weight, statistics = _layer(make_network, node, _correlated((20, 2, 5, 5)), (2, 4, 3, 3))
    (found,) = codebook_gptq(prepare(weight, statistics), [CodebookFormat(3)], 1)
    assert found.table.shape == (8, 8, 1)
    diagonal = np.diag(statistics.hessian[0]) + 0.01 * np.diag(statistics.hessian[0]).mean()
    importance = np.broadcast_to(diagonal.reshape(2, 1, 3, 3)[:, :, ::-1, ::-1], weight.shape).astype(np.float32)
    np.testing.assert_array_equal(found.dequantize(), codebook(weight, CodebookFormat(3), 1, importance).dequantize())


def test_without_any_input_values_are_rounded_alone(make_network: MakeNetwork) -> None:
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    weight, statistics = _layer(make_network, node, np.zeros((9, 30), dtype=np.float32), (30, 5))
    (found,) = codebook_gptq(prepare(weight, statistics), [CodebookFormat(3)], 1)
    alone = codebook(weight, CodebookFormat(3), 1)
    np.testing.assert_allclose(found.dequantize(), alone.dequantize(), rtol=2e-3)

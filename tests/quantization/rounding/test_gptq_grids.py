"""GPTQ on power grids, against GPTQ to the same values as tables, and against rounding alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import helper

from network.graph import Network
from quantization.formats import PowerFormat
from quantization.rounding.gptq import prepare
from quantization.rounding.gptq_grids import power_gptq
from quantization.rounding.power_grids import optimal_power, round_power
from quantization.rounding.statistics import InputStatistics, input_statistics
from quantization.storage.weights import QuantizedWeight
from tests.quantization.rounding.tables import gptq_to_tables

Layer = tuple[NDArray[np.float32], InputStatistics]


@pytest.fixture(params=["laplace", "uniform"])
def layer(request: pytest.FixtureRequest, make_network: Callable[..., Network]) -> Layer:
    """A MatMul's weight `[40, 24]`, and the statistics of correlated inputs."""
    generator = np.random.default_rng(3)
    inputs = generator.standard_normal((500, 40)).astype(np.float32)
    inputs = np.maximum(inputs + np.roll(inputs, 1, axis=1) + np.roll(inputs, 2, axis=1), 0)
    shape = (40, 24)
    values = generator.laplace(size=shape) if request.param == "laplace" else generator.uniform(-1, 1, shape)
    weight = values.astype(np.float32)
    network = make_network([helper.make_node("MatMul", ["x", "w"], ["y"])], {"x": inputs}, {"w": weight})
    (site,) = network.sites
    statistics = input_statistics(network, site)
    assert isinstance(statistics, InputStatistics)
    statistics.add(site.layers[0], inputs)
    return weight, statistics


def _error(weight: NDArray[np.float32], rounded: QuantizedWeight, statistics: InputStatistics) -> float:
    """`sum d H d'` over all outputs."""
    deltas = rounded.dequantize().astype(np.float64) - weight
    return float(np.einsum("kr,kl,lr->", deltas, statistics.hessian[0], deltas))


@pytest.mark.parametrize("bits", [2, 3, 4, 6, 8])
def test_outputs_are_nearer_than_by_rounding_alone(layer: Layer, bits: int) -> None:
    weight, statistics = layer
    (found,) = power_gptq(prepare(weight, statistics), [PowerFormat(bits)], 1)
    alone = round_power(weight, PowerFormat(bits), 1)
    np.testing.assert_array_equal(found.table, alone.table)
    assert _error(weight, found, statistics) < 0.8 * _error(weight, alone, statistics)
    assert ((alone.scale < 0) == (found.scale < 0)).all()


@pytest.mark.parametrize("bits", [2, 3, 8])
def test_codes_stand_for_the_values_that_were_chosen(layer: Layer, bits: int) -> None:
    weight, statistics = layer
    prepared = prepare(weight, statistics)
    scale, table = optimal_power(weight, PowerFormat(bits), 1)
    assert (scale < 0).any()
    assert (scale > 0).any()
    tables = np.sort(scale.reshape(-1, 1) * table.astype(np.float32), axis=1)
    expected = gptq_to_tables(prepared, tables, 1)
    (found,) = power_gptq(prepared, [PowerFormat(bits)], 1)
    np.testing.assert_allclose(found.dequantize(), expected.values * expected.factors, rtol=1e-6)


def test_all_formats_at_once_are_each_alone(layer: Layer) -> None:
    weight, statistics = layer
    prepared = prepare(weight, statistics)
    formats = [PowerFormat(2), PowerFormat(5)]
    for format_, found in zip(formats, power_gptq(prepared, formats, 1), strict=True):
        (alone,) = power_gptq(prepared, [format_], 1)
        assert found.format == format_
        np.testing.assert_array_equal(found.dequantize(), alone.dequantize())

"""One weight in every format: the error of its outputs in float64, against rounding without coordinate descent."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import helper

from network.graph import Network
from quantization.formats import (
    CodebookFormat,
    Granularity,
    HadamardFormat,
    HalfFormat,
    IntegerFormat,
    PowerFormat,
    WeightFormat,
)
from quantization.plans.weight_rounding import reason_to_keep, round_anew
from quantization.rounding.codebook_tables import codebook
from quantization.rounding.convolution import ConvReduction
from quantization.rounding.reduction import MatrixReduction
from quantization.rounding.statistics import InputStatistics, input_statistics
from quantization.storage.halves import HalfWeight

FORMATS = [
    IntegerFormat(3),
    IntegerFormat(3, Granularity.BLOCK, False, 16),
    PowerFormat(3),
    PowerFormat(8),
    HadamardFormat(3),
    CodebookFormat(2),
    CodebookFormat(3, 100),
]


def layer(
    make_network: Callable[..., Network], columns: int
) -> tuple[NDArray[np.float32], InputStatistics, NDArray, NDArray]:
    """A weight `[columns, 12]`, statistics with errors before the layer, and the inputs of both networks."""
    rng = np.random.default_rng(columns)
    exact = rng.standard_normal((400, columns)).astype(np.float32)
    exact = np.maximum(exact + np.roll(exact, 1, axis=1) + np.roll(exact, 2, axis=1), 0)
    inputs = (exact + 0.3 * exact @ rng.standard_normal((columns, columns)) / columns**0.5).astype(np.float32)
    weight = rng.laplace(size=(columns, 12)).astype(np.float32)
    network = make_network([helper.make_node("MatMul", ["x", "w"], ["y"])], {"x": exact}, {"w": weight})
    (site,) = network.sites
    statistics = input_statistics(network, site)
    assert isinstance(statistics, InputStatistics)
    statistics.add(site.layers[0], inputs, exact)
    return weight, statistics, inputs, exact


@pytest.mark.parametrize("format_", FORMATS, ids=lambda format_: format_.name)
def test_outputs_of_the_float_layer_are_approached(make_network: Callable[..., Network], format_: WeightFormat) -> None:
    """Nearer by coordinate descent than without; with 8 bits far nearer than by the float weight itself."""
    weight, statistics, inputs, exact = layer(make_network, 64)
    aim = exact.astype(np.float64) @ weight
    errors = [
        np.square(inputs @ round_anew(weight, format_, 1, statistics, 0.01, sweeps)[0].dequantize() - aim).mean()
        for sweeps in (0, 4)
    ]
    assert errors[1] < errors[0]
    if format_.bits == 8:
        assert errors[1] < 0.1 * np.square(inputs @ weight - aim).mean()


@pytest.mark.parametrize("format_", FORMATS, ids=lambda format_: format_.name)
def test_only_weights_of_few_columns_are_swept(make_network: Callable[..., Network], format_: WeightFormat) -> None:
    weight, statistics, *_ = layer(make_network, 2064)
    found = [round_anew(weight, format_, 1, statistics, 0.01, sweeps)[0] for sweeps in (0, 4)]
    assert found[0].dequantize().tobytes() == found[1].dequantize().tobytes()


def test_reasons_to_keep() -> None:
    half = HalfWeight(HalfFormat(), np.zeros((8, 8), dtype=np.float16))
    assert reason_to_keep(half, MatrixReduction(0, -1)) == "GPTQ does not round float16 anew"
    tables = codebook(np.ones((2, 4, 3), dtype=np.float32), CodebookFormat(2), 1)
    transposed = ConvReduction(1, (3,), (1,), (1,), (0, 0), transposed=True)
    assert reason_to_keep(tables, transposed) == "an output sums over values of several tables of codebook2/channel"
    one = codebook(np.ones((1, 4, 3), dtype=np.float32), CodebookFormat(2), 1)
    assert reason_to_keep(one, transposed) == ""

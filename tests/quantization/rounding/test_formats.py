"""All formats of a weight at once: each as its own family rounds it, in the order asked for."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from onnx import helper

from network.graph import Network
from quantization.formats import CodebookFormat, HadamardFormat, HalfFormat, IntegerFormat, PowerFormat, WeightFormat
from quantization.rounding.formats import round_to_formats
from quantization.rounding.gptq import gptq, prepare
from quantization.rounding.gptq_codebooks import codebook_gptq
from quantization.rounding.gptq_grids import power_gptq
from quantization.rounding.gptq_rotations import hadamard_gptq
from quantization.rounding.nearest import round_nearest
from quantization.rounding.reduction import NotReducible
from quantization.rounding.statistics import InputStatistics, input_statistics

FORMATS: list[WeightFormat] = [
    HadamardFormat(3),
    IntegerFormat(4),
    PowerFormat(3),
    HalfFormat(),
    IntegerFormat(2),
    HadamardFormat(5),
    CodebookFormat(2, 45),
]


def _layer(make_network: Callable[..., Network]) -> tuple[np.ndarray, InputStatistics]:
    generator = np.random.default_rng(0)
    inputs = generator.standard_normal((200, 32)).astype(np.float32)
    inputs += np.roll(inputs, 1, axis=1)
    weight = generator.standard_normal((32, 6)).astype(np.float32)
    network = make_network([helper.make_node("MatMul", ["x", "w"], ["y"])], {"x": inputs}, {"w": weight})
    (site,) = network.sites
    statistics = input_statistics(network, site)
    assert isinstance(statistics, InputStatistics)
    statistics.add(site.layers[0], inputs)
    return weight, statistics


def test_each_format_is_rounded_as_its_family_is(make_network: Callable[..., Network]) -> None:
    weight, statistics = _layer(make_network)
    found, method = round_to_formats(weight, FORMATS, 1, statistics)
    assert method == "gptq"
    assert [own.format for own in found] == FORMATS
    integers = gptq(prepare(weight, statistics), [IntegerFormat(4), IntegerFormat(2)], 1)
    turned = hadamard_gptq(weight, [HadamardFormat(3), HadamardFormat(5)], 1, statistics)
    (power,) = power_gptq(prepare(weight, statistics), [PowerFormat(3)], 1)
    (codebook,) = codebook_gptq(prepare(weight, statistics), [CodebookFormat(2, 45)], 1)
    half = round_nearest(weight, HalfFormat(), 1)
    expected = [turned[0], integers[0], power, half, integers[1], turned[1], codebook]
    for own, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(own.dequantize(), other.dequantize())


def test_without_statistics_every_value_is_rounded_by_itself(make_network: Callable[..., Network]) -> None:
    weight, _ = _layer(make_network)
    found, method = round_to_formats(weight, FORMATS, 1, NotReducible("its inputs are rows of a table"))
    assert method == "nearest: its inputs are rows of a table"
    for own, format_ in zip(found, FORMATS, strict=True):
        np.testing.assert_array_equal(own.dequantize(), round_nearest(weight, format_, 1).dequantize())


@pytest.mark.parametrize("known", [False, True])
def test_it_can_be_ended_between_formats(make_network: Callable[..., Network], known: bool) -> None:
    weight, statistics = _layer(make_network)
    formats = [CodebookFormat(2), CodebookFormat(3)]
    given = statistics if known else NotReducible("its inputs are rows of a table")
    calls: list[int] = []
    round_to_formats(weight, formats, 1, given, lambda: calls.append(0))
    assert len(calls) >= 2

    def end() -> None:
        raise TimeoutError

    with pytest.raises(TimeoutError):
        round_to_formats(weight, formats, 1, given, end)

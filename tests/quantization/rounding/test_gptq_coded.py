"""GPTQ that counts bits: the room is used, outputs are nearer than with integers of as many bytes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import helper

from network.graph import Network
from quantization.formats import CodedFormat, Granularity, IntegerFormat
from quantization.rounding import gptq_coded
from quantization.rounding.coded_steps import round_coded
from quantization.rounding.gptq import gptq, prepare, round_rows
from quantization.rounding.gptq_coded import coded_gptq, coded_gptq_from
from quantization.rounding.statistics import InputStatistics, input_statistics
from quantization.storage.coded import coded_bits, size_bytes
from quantization.storage.weights import QuantizedWeight

Layer = tuple[NDArray[np.float32], InputStatistics]
SHAPE = (96, 64)


@pytest.fixture(params=["laplace", "normal"])
def layer(request: pytest.FixtureRequest, make_network: Callable[..., Network]) -> Layer:
    """A MatMul's weight, and the statistics of correlated inputs."""
    generator = np.random.default_rng(3)
    inputs = generator.standard_normal((800, SHAPE[0])).astype(np.float32)
    inputs = np.maximum(inputs + np.roll(inputs, 1, axis=1) + np.roll(inputs, 2, axis=1), 0)
    weight = getattr(generator, request.param)(size=SHAPE).astype(np.float32)
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


def test_the_room_is_used(layer: Layer) -> None:
    weight, statistics = layer
    formats = [CodedFormat(tenths) for tenths in (12, 16, 20, 25, 30, 40)]
    for format_, found in zip(formats, coded_gptq(prepare(weight, statistics), formats), strict=True):
        room = 8 * size_bytes(format_, weight.size)
        assert 0.97 * room < coded_bits(found.codes, format_) <= room


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_outputs_are_nearer_than_with_integers_of_as_many_bytes(layer: Layer, bits: int) -> None:
    weight, statistics = layer
    prepared = prepare(weight, statistics)
    (integers,) = gptq(prepared, [IntegerFormat(bits, Granularity.CHANNEL)], 1)
    (coded,) = coded_gptq(prepared, [CodedFormat(10 * bits)])
    assert _error(weight, coded, statistics) < 0.8 * _error(weight, integers, statistics)


@pytest.mark.parametrize("tenths", [12, 20, 30])
def test_outputs_are_nearer_than_by_rounding_alone(layer: Layer, tenths: int) -> None:
    weight, statistics = layer
    (found,) = coded_gptq(prepare(weight, statistics), [CodedFormat(tenths)])
    alone = round_coded(weight, CodedFormat(tenths))
    assert _error(weight, found, statistics) < 0.8 * _error(weight, alone, statistics)


def test_counting_bits_pays(layer: Layer, monkeypatch: pytest.MonkeyPatch) -> None:
    weight, statistics = layer
    prepared, formats = prepare(weight, statistics), [CodedFormat(tenths) for tenths in (12, 16, 20)]
    counted = sum(np.log(_error(weight, own, statistics)) for own in coded_gptq(prepared, formats))
    monkeypatch.setattr(gptq_coded, "BITS_PRICE", 0.0)
    assert counted < sum(np.log(_error(weight, own, statistics)) for own in coded_gptq(prepared, formats))


def test_a_weight_that_is_rounded_anew_takes_fewer_rounds(layer: Layer, monkeypatch: pytest.MonkeyPatch) -> None:
    weight, statistics = layer
    changed = np.asarray(weight * 1.02 + 0.01, dtype=np.float32)
    prepared = prepare(changed, statistics)
    rounds = []
    monkeypatch.setattr(gptq_coded, "round_rows", lambda *given: rounds.append(given) or round_rows(*given))
    taken = {"alone": 0, "anew": 0}
    for format_ in map(CodedFormat, (15, 18, 21, 24, 27, 30, 35, 40)):
        (begun,) = coded_gptq(prepare(weight, statistics), [format_])
        rounds.clear()
        (alone,) = coded_gptq(prepared, [format_])
        taken["alone"] += len(rounds)
        anew = coded_gptq_from(begun, prepared)
        taken["anew"] += len(rounds)
        assert coded_bits(anew.codes, format_) <= 8 * size_bytes(format_, weight.size)
        assert _error(changed, anew, statistics) < 1.03 * _error(changed, alone, statistics)
    assert taken["anew"] < 2 * taken["alone"], taken


def test_formats_do_not_change_each_other(layer: Layer) -> None:
    weight, statistics = layer
    prepared = prepare(weight, statistics)
    together = coded_gptq(prepared, [CodedFormat(14), CodedFormat(33)])
    for own in together:
        (alone,) = coded_gptq(prepared, [own.format])
        np.testing.assert_array_equal(alone.codes, own.codes)


def test_a_weight_of_zeros_stays_one(layer: Layer) -> None:
    weight, statistics = layer
    (found,) = coded_gptq(prepare(np.zeros_like(weight), statistics), [CodedFormat(20)])
    assert not found.dequantize().any()
    assert not round_coded(np.zeros(200, dtype=np.float32), CodedFormat(20)).codes.any()

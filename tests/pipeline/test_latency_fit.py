"""Times of layers that add up to those of whole networks: by hand, without a clock."""

from __future__ import annotations

import pytest

from pipeline.latency_fit import FLOAT, Whole, fastest, fit

PACKED, QUANTIZED = "int4/block32", "int8/channel+uint8/tensor"
TIMES = {
    "a": {FLOAT: 4.0, PACKED: 2.0, "int8/channel": 4.0, QUANTIZED: 1.0},
    "b": {FLOAT: 2.0, PACKED: 1.0, "int8/channel": 2.0, QUANTIZED: 3.0},
    "c": {FLOAT: 1.0, "int8/channel": 1.0},
}
IN_FLOAT = Whole({"a": PACKED, "b": PACKED, "c": "int8/channel"}, 5.5)


def total(found, keys) -> float:
    return found.base_ms + sum(found.times[name][key] for name, key in keys.items())


def test_sums_are_the_times_of_whole_networks():
    found = fit(TIMES, 10.0, {"": IN_FLOAT}, 0.03)
    assert found.scales == {"": 1.5}  # 4.5 instead of 3 milliseconds are saved
    assert found.base_ms == 0  # so layers take longer than alone, as far as the network leaves room
    assert total(found, dict.fromkeys(TIMES, FLOAT)) == pytest.approx(10)
    assert total(found, IN_FLOAT.keys) == pytest.approx(5.5)
    assert total(found, {**IN_FLOAT.keys, "b": "int8/channel"}) == pytest.approx(7.0)


def test_every_format_that_layers_read_has_its_scale():
    """A layer that is slower between quantized tensors is not scaled; one that reads floats there has their scale."""
    quantized = Whole({"a": QUANTIZED, "b": QUANTIZED, "c": "int8/channel"}, 9.5)
    found = fit(TIMES, 10.0, {"": IN_FLOAT, "uint8/tensor": quantized}, 0.03)
    assert found.scales == {"": 1.5, "uint8/tensor": 0.5}
    assert total(found, quantized.keys) == pytest.approx(9.5)
    assert total(found, IN_FLOAT.keys) == pytest.approx(5.5)
    assert found.times["b"][QUANTIZED] - found.times["b"][FLOAT] == pytest.approx(1.0)


def test_layers_that_save_less_inside_of_the_network_take_their_own_time():
    found = fit(TIMES, 10.0, {"": Whole(IN_FLOAT.keys, 8.5)}, 0.03)
    assert (found.base_ms, found.scales) == (3.0, {"": 0.5})
    assert found.times["a"] == {FLOAT: 4.0, PACKED: 3.0, "int8/channel": 4.0, QUANTIZED: 1.0}


def test_layers_that_save_more_take_longer_in_all_formats():
    found = fit(TIMES, 20.0, {"": Whole(IN_FLOAT.keys, 14.0)}, 0.03)
    assert (found.base_ms, found.scales) == (6.0, {"": 2.0})
    assert found.times["a"][PACKED] == 4.0
    assert found.times["c"] == {FLOAT: 2.0, "int8/channel": 2.0}


def test_layers_that_take_longer_than_the_network_shrink():
    found = fit(TIMES, 3.5, {"": Whole(IN_FLOAT.keys, 2.0)}, 0.03)
    assert found.base_ms == 0
    assert total(found, dict.fromkeys(TIMES, FLOAT)) == pytest.approx(3.5)
    assert total(found, IN_FLOAT.keys) == pytest.approx(2.0)


def test_no_layer_takes_less_than_nothing():
    found = fit(TIMES, 10.0, {"": Whole(IN_FLOAT.keys, 0.5)}, 0.03)
    assert min(ms for own in found.times.values() for ms in own.values()) == 0


def test_a_network_that_saves_nothing_says_nothing_of_layers():
    float_alone = {name: {FLOAT: own[FLOAT], "int8/channel": own[FLOAT]} for name, own in TIMES.items()}
    found = fit(float_alone, 10.0, {"": Whole(dict.fromkeys(TIMES, "int8/channel"), 10.4)}, 0.03)
    assert found.scales == {"": 1.0}
    assert found.times == float_alone


def test_of_equally_fast_formats_the_last():
    choices = {"a": [PACKED, "int8/channel", FLOAT], "c": [FLOAT, "int8/channel"]}
    assert fastest(TIMES, choices) == {"a": PACKED, "c": "int8/channel"}

"""Predicted times to load: which format is slower than which, and that they depend on nothing but the plan."""

from __future__ import annotations

from itertools import pairwise

import pytest

from quantization.formats import CODED_TENTHS, CodedFormat, FloatFormat, UnsignedFormat, weight_format
from quantization.storage.loading import NS_PER_BYTE, load_cost, network_load_ms, weight_load_ms

MILLION = 10**6


def ms(name: str, values: int = MILLION, opset: int = 25) -> float:
    return weight_load_ms(weight_format(name), values, opset)


def test_families_are_in_the_order_that_was_measured() -> None:
    order = ["float32", "int8/channel", "int6/channel", "int3/channel", "codebook3/channel", "coded2.0/tensor"]
    assert all(ms(faster) < ms(slower) for faster, slower in pairwise(order))
    for plain, more in (
        ("int4/channel", "int4/channel/asymmetric"),
        ("int4/channel", "int4/block32"),
        ("codebook3/channel", "codebook3/channel/outliers45"),
        ("int4/channel", "power4/channel"),
        ("int4/channel", "hadamard4/channel"),
        ("coded2.0/tensor", "coded4.0/tensor"),
    ):
        assert ms(plain) < ms(more)


@pytest.mark.parametrize("opset", [18, 25])
def test_a_coded_weight_takes_several_times_as_long_as_integers_however_small(opset: int) -> None:
    for tenths in CODED_TENTHS:
        name = CodedFormat(tenths).name
        assert ms(name, opset=opset) > 1.2 * ms("int4/channel", opset=opset)
        assert ms(name, 1000, opset) > 3 * ms("int4/channel", 1000, opset)


def test_opsets_without_types_of_2_bits_load_slower() -> None:
    for name in ("int2/channel", "int3/channel", "int4/channel", "int6/channel", "codebook3/channel"):
        assert ms(name, opset=18) > ms(name)
    for name in ("float32", "float16", "int8/channel", "coded2.3/tensor"):
        assert ms(name, opset=18) == ms(name)


def test_the_time_is_a_sum() -> None:
    cost = load_cost(weight_format("int3/channel"))
    assert cost.ms(0) == cost.fixed_ms
    assert cost.ms(2 * MILLION) - cost.ms(MILLION) == pytest.approx(cost.ns_per_value)
    floats = weight_load_ms(FloatFormat(), MILLION)
    assert network_load_ms(10, 4 * MILLION) - network_load_ms(10, 0) == pytest.approx(floats)
    assert floats == pytest.approx(4 * NS_PER_BYTE)


def test_activations_are_no_part_of_it() -> None:
    with pytest.raises(TypeError, match="uint8/tensor is a format of activations"):
        load_cost(UnsignedFormat(8))

"""The profiles that are shipped, and what a target refuses."""

from __future__ import annotations

import onnx
import pytest

from network.opset import OLDEST_OPSET, TARGET_OPSET
from planner.errors import ConstraintImpossible
from planner.targets import FIRST_OPSET_OF_BITS, OPSETS, Target, target, target_names
from quantization.formats import (
    CodebookFormat,
    Granularity,
    HadamardFormat,
    HalfFormat,
    IntegerFormat,
    PowerFormat,
    parse_format,
)

NARROW = Target("narrow", "for tests", (4, 8), (Granularity.CHANNEL,), False, (8,), frozenset({(4, 8), (8, 8)}), 21)


@pytest.mark.parametrize("name", target_names())
def test_every_profile_can_be_read_and_says_what_it_is(name):
    loaded = target(name)
    assert loaded.name == name
    assert loaded.description.endswith(".")


def test_the_profiles_that_the_documentation_names_are_there():
    assert {"onnxruntime-cpu", "storage-only", "integer-w8-a8"} <= set(target_names())
    assert target("storage-only").activation_bits == ()
    assert target("onnxruntime-cpu").weight_bits == tuple(range(2, 9))


def test_an_unknown_target_is_refused_with_those_that_there_are():
    with pytest.raises(LookupError, match=r"no target is called 'tpu'; there are integer-.*storage-only"):
        target("tpu")


@pytest.mark.parametrize(("bits", "nearest"), [(2, 4), (5, 4), (6, 8), (7, 8)])
def test_a_width_is_refused_with_the_nearest(bits, nearest):
    with pytest.raises(ConstraintImpossible, match=f"layers.fc.bits asks for {bits} bits, .* the nearest is {nearest}"):
        NARROW.check_weight_format(IntegerFormat(bits), "layers.fc.bits")
    NARROW.check_weight_format(IntegerFormat(8), "layers.fc.bits")


def test_activations_are_refused_like_weights():
    with pytest.raises(ConstraintImpossible, match="the nearest is 8, and it has activations in 8 bits"):
        NARROW.check_activation_bits(16, "activations.bits", 21)
    with pytest.raises(ConstraintImpossible, match="on the target storage-only activations stay float32"):
        target("storage-only").check_activation_bits(8, "activations.bits", 25)
    NARROW.check_activation_bits(8, "activations.bits", 18)


@pytest.mark.parametrize("opset", [18, 19, 20])
def test_activations_of_16_bits_are_refused_where_onnx_has_none(opset):
    runs = target("onnxruntime-cpu")
    text = (
        f"activations.bits asks for 16 bits, .* from opset 21 on, .* to have opset {opset}; take 8 bits, or set opset"
    )
    with pytest.raises(ConstraintImpossible, match=text):
        runs.check_activation_bits(16, "activations.bits", opset)
    runs.check_activation_bits(16, "activations.bits", 21)


def test_an_opset_is_refused_with_the_newest_that_the_target_takes():
    with pytest.raises(
        ConstraintImpossible, match="opset asks for 22, and the target narrow takes 21 at most; take that"
    ):
        NARROW.opset_for(22)
    assert [NARROW.opset_for(requested) for requested in (None, 18, 21)] == [21, 18, 21]
    assert target("onnxruntime-cpu").opset_for(None) == target("storage-only").opset_for(None) == TARGET_OPSET


def test_opsets_are_those_that_a_network_can_have():
    assert list(OPSETS) == list(range(OLDEST_OPSET, TARGET_OPSET + 1))
    for bits, first in FIRST_OPSET_OF_BITS.items():
        for opset in OPSETS:
            output = onnx.defs.get_schema("QuantizeLinear", opset, "").outputs[0]
            assert (f"tensor(uint{bits})" in output.types) == (opset >= first)


def test_a_granularity_is_refused_with_what_there_is():
    with pytest.raises(ConstraintImpossible, match=r"a scale per tensor, which .*narrow does not.* take channel"):
        NARROW.check_weight_format(IntegerFormat(8, Granularity.TENSOR), "weights.granularity")


@pytest.mark.parametrize(
    "format_",
    [
        HalfFormat(),
        CodebookFormat(4),
        PowerFormat(4),
        HadamardFormat(4),
        IntegerFormat(4, symmetric=False),
        IntegerFormat(4, Granularity.BLOCK, block=32),
    ],
)
def test_only_what_unpacks_weights_takes_any_format(format_):
    target("onnxruntime-cpu").check_weight_format(format_, "weights.formats")
    target("storage-only").check_weight_format(format_, "weights.formats")
    with pytest.raises(
        ConstraintImpossible, match=f"asks for {format_.name}, and .* symmetric integers with one scale"
    ):
        target("integer-w4w8-a8").check_weight_format(format_, "weights.formats")


@pytest.mark.parametrize("name", [name for name in target_names() if not target(name).unpacks])
@pytest.mark.parametrize("block", [IntegerFormat(bits, Granularity.BLOCK, block=32) for bits in range(2, 9)])
def test_what_is_named_in_place_of_a_format_is_one_of_the_target(name, block):
    for format_ in (block, HadamardFormat(block.bits), HalfFormat()):
        with pytest.raises(ConstraintImpossible) as refused:
            target(name).check_weight_format(format_, "weights.formats")
        named = str(refused.value).rpartition("; take ")[2]
        instead = parse_format(named)
        target(name).check_weight_format(instead, "weights.formats")
        distances = [abs(width - format_.bits) for width in target(name).weight_bits]
        assert abs(instead.bits - format_.bits) == min(distances)


@pytest.mark.parametrize(
    "fields",
    [
        {"weight_bits": (1, 8)},
        {"weight_bits": (8, 4)},
        {"weight_bits": ()},
        {"activation_bits": (3,)},
        {"integer_kernels": frozenset({(2, 8)})},
        {"opset": 17},
        {"opset": 26},
    ],
)
def test_a_profile_that_makes_no_sense_is_refused(fields):
    good = {
        "weight_bits": (4, 8),
        "granularities": (Granularity.CHANNEL,),
        "unpacks": False,
        "activation_bits": (8,),
        "integer_kernels": frozenset(),
        "opset": 25,
    }
    Target("right", "for tests", **good)
    with pytest.raises(ValueError):
        Target("wrong", "for tests", **{**good, **fields})

"""The profiles that are shipped, and what a target refuses."""

from __future__ import annotations

import pytest

from planner.errors import ConstraintImpossible
from planner.targets import Target, target, target_names
from quantization.formats import Granularity

NARROW = Target("narrow", "for tests", (4, 8), (Granularity.CHANNEL,), (8,), frozenset({(4, 8), (8, 8)}))


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
        NARROW.check_weight_bits(bits, "layers.fc.bits")
    NARROW.check_weight_bits(8, "layers.fc.bits")


def test_activations_are_refused_like_weights():
    with pytest.raises(ConstraintImpossible, match="the nearest is 8, and it has activations in 8 bits"):
        NARROW.check_activation_bits(16, "activations.bits")
    with pytest.raises(ConstraintImpossible, match="on the target storage-only activations stay float32"):
        target("storage-only").check_activation_bits(8, "activations.bits")
    NARROW.check_activation_bits(8, "activations.bits")


def test_a_granularity_is_refused_with_what_there_is():
    with pytest.raises(ConstraintImpossible, match="is tensor, which the target narrow does not support; take channel"):
        NARROW.check_granularity(Granularity.TENSOR, "weights.granularity")


@pytest.mark.parametrize(
    "fields",
    [
        {"weight_bits": (1, 8)},
        {"weight_bits": (8, 4)},
        {"weight_bits": ()},
        {"activation_bits": (3,)},
        {"integer_kernels": frozenset({(2, 8)})},
    ],
)
def test_a_profile_that_makes_no_sense_is_refused(fields):
    good = {
        "weight_bits": (4, 8),
        "granularities": (Granularity.CHANNEL,),
        "activation_bits": (8,),
        "integer_kernels": frozenset(),
    }
    with pytest.raises(ValueError):
        Target("wrong", "for tests", **{**good, **fields})

"""In which order the formats of a weight come, and which one a weight gets that nothing measures."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from network.normalise import normalise
from pipeline import allowed_formats as allowed_formats_module
from pipeline.allowed_formats import allowed_formats, fitting, offered
from quantization.formats import CodedFormat, parse_format, weight_format
from tests.pipeline.conftest import configured

FOUR_BITS = [
    "codebook4/channel",
    "codebook4/channel/outliers45",
    "codebook4/channel/outliers100",
    "hadamard4/channel",
    "power4/channel",
    "int4/tensor",
    "int4/tensor/asymmetric",
    "int4/channel",
    "int4/channel/asymmetric",
    "int4/block64",
    "int4/block32",
    "int4/block32/asymmetric",
]
NARROWER, WIDER = "int3/block32", "power5/channel"


@pytest.fixture(scope="module")
def two_headed() -> onnx.ModelProto:
    """A layer before an output of floats, and one before a choice alone, which divides into blocks of 32 and 64."""
    shapes = {"main": (4, 128), "aux": (6, 128)}
    return helper.make_model(
        helper.make_graph(
            [
                *(helper.make_node("Gemm", ["x", name], [f"y_{name}"], transB=1, name=name) for name in shapes),
                helper.make_node("ArgMax", ["y_aux"], ["choice"], axis=1, keepdims=0, name="choose"),
            ],
            "two_headed",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 128])],
            [
                helper.make_tensor_value_info("y_main", TensorProto.FLOAT, ["N", 4]),
                helper.make_tensor_value_info("choice", TensorProto.INT64, ["N"]),
            ],
            [numpy_helper.from_array(np.ones(shape, np.float32), name) for name, shape in shapes.items()],
        ),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=8,
    )


def names(formats):
    return [format_.name for format_ in formats]


def test_formats_come_by_bits_and_then_to_the_one_to_prefer(two_headed):
    site = normalise(two_headed, {"x": (128,)}).sites[0]
    expected = [NARROWER, *FOUR_BITS, WIDER, "int8/channel", "float16"]
    for order in (sorted(expected), sorted(expected, reverse=True)):
        assert names(fitting(site, map(weight_format, order))) == expected


def test_no_two_formats_stand_at_one_place(two_headed):
    """Else the order would be that of a set, which is another one in every process."""
    site = normalise(two_headed, {"x": (128,)}).sites[0]
    for pair in itertools.permutations(FOUR_BITS, 2):
        found = names(fitting(site, map(weight_format, pair)))
        assert found == sorted(pair, key=FOUR_BITS.index)


def test_what_a_weight_cannot_hold_is_replaced_in_its_place(two_headed):
    site = replace(normalise(two_headed, {"x": (128,)}).sites[0], shape=(4, 27))
    found = fitting(
        site, map(weight_format, ["int4/block32", "int4/tensor", "power4/channel", "int8/block64/asymmetric"])
    )
    assert names(found) == ["power4/channel", "int4/tensor", "int4/channel", "int8/channel/asymmetric"]


@pytest.mark.parametrize(
    ("formats", "widest"),
    [
        (["int8/channel", "power8/channel", "hadamard8/channel"], "int8/channel"),
        (["int8/channel", "int8/tensor", "int4/block32"], "int8/channel"),
        (["int8/channel", "int8/block32", "int8/block64"], "int8/block32"),
        (["hadamard8/channel", "int4/channel"], "hadamard8/channel"),
        (["int8/channel", "float16"], "float16"),
    ],
)
def test_what_nothing_measures_gets_the_widest_integers(two_headed, formats, widest):
    config = configured(weights={"formats": formats}).resolve.formats
    allowed, _ = allowed_formats(normalise(two_headed, {"x": (128,)}), config)
    assert allowed["aux"] == [widest]
    assert set(allowed["main"]) == set(formats)
    assert [parse_format(name).bits for name in allowed["main"]] == sorted(parse_format(one).bits for one in formats)


def test_coded_formats_are_offered_besides_to_weights_that_they_pay_for(two_headed, monkeypatch):
    """To small weights first, as what decoding takes is kept until all are decoded."""
    network = normalise(two_headed, {"x": (128,)})
    config = configured().resolve.formats
    sizes = {site.name: math.prod(site.shape) for site in network.sites}
    smallest, largest = sorted(sizes, key=sizes.__getitem__)
    total = sum(sizes.values())

    def has_coded(name: str) -> bool:
        return any(isinstance(format_, CodedFormat) for format_ in offered(config, network, [])[name])

    monkeypatch.setattr(allowed_formats_module, "LEAST_CODED", total)
    monkeypatch.setattr(allowed_formats_module, "MOST_CODED", total)
    assert has_coded(smallest)
    assert has_coded(largest)
    monkeypatch.setattr(allowed_formats_module, "MOST_CODED", total - 1)
    assert has_coded(smallest)
    assert not has_coded(largest)
    monkeypatch.setattr(allowed_formats_module, "MOST_CODED", sizes[smallest] - 1)
    assert not has_coded(smallest)
    monkeypatch.setattr(allowed_formats_module, "MOST_CODED", total)
    monkeypatch.setattr(allowed_formats_module, "LEAST_CODED", total + 1)
    assert not has_coded(smallest)

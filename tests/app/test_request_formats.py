from __future__ import annotations

import pytest

from app.errors import AppError
from app.schemas.parsing import parse_request
from quantization.formats import parse_format
from tests.app.requests import request_of


def test_formats_are_named_once_in_order_of_bits() -> None:
    named = ["float16", "int4/block32", "codebook3/channel/outliers45", "int4/block32", "hadamard2/channel"]
    request = parse_request(request_of(weights={"formats": named}, layers={"fc": {"formats": ["float16"]}}))
    assert request.weights.formats == (
        "hadamard2/channel",
        "codebook3/channel/outliers45",
        "int4/block32",
        "float16",
    )
    assert request.weights.widest(request.target) == 16
    assert parse_request(request.model_dump(mode="json")) == request


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize(
    "shared",
    ["int{}/channel", "int{}/tensor/asymmetric", "int{}/block256", "power{}/channel", "hadamard{}/channel"],
)
def test_a_name_is_taken_just_when_there_is_such_a_format(shared: str, bits: int) -> None:
    name = shared.format(bits)
    assert parse_format(name).name == name
    assert parse_request(request_of(weights={"formats": [name]})).weights.formats == (name,)
    for wrong in (shared.format(9), shared.format(1), f"{name}/", name.upper()):
        with pytest.raises(ValueError, match="no format"):
            parse_format(wrong)
        with pytest.raises(AppError, match="no format"):
            parse_request(request_of(weights={"formats": [wrong]}))


def test_the_least_width_of_an_activation_may_be_above_those_of_weights() -> None:
    members = {"weights": {"bits": [4]}, "activations": {"bits": [4, 8]}, "layers": {"image": {"min_bits": 8}}}
    assert parse_request(request_of(**members)).layers["image"].min_bits == 8


def test_a_layer_may_get_widths_that_no_other_layer_gets() -> None:
    request = parse_request(request_of(weights={"bits": [2, 4]}, layers={"fc": {"bits": [8]}}))
    assert request.layers["fc"].bits == (8,)


def test_a_target_leaves_the_widths_that_it_has() -> None:
    request = parse_request(request_of(target="integer-w4w8-a8"))
    assert request.weights.bits is None
    assert request.weights.widths(request.target) == (4, 8)
    assert request.weights.granularity == "channel"
    narrower = parse_request(request_of(target="integer-w4w8-a8", weights={"bits": [8]}))
    assert narrower.weights.widths(narrower.target) == (8,)
    assert request.weights.widths("storage-only") == (2, 3, 4, 5, 6, 7, 8)

"""Whole jobs on networks of which some weights came quantized."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import pipeline
from tests.network.quantized_models import HIDDEN, WIDTH, behind_dequantize, behind_quantize, packed

SAMPLES = {"x": np.random.default_rng(9).normal(size=(80, WIDTH)).astype(np.float32)}
REQUEST: dict[str, Any] = {"budget": {"max_drop": 0.05}, "weights": {"bits": [4, 8]}}
ANEW: dict[str, Any] = {**REQUEST, "weights": {"bits": [4, 8], "requantize": True}}


def test_codes_are_kept_and_told() -> None:
    uploaded = behind_dequantize().SerializeToString()
    result = pipeline.plan(uploaded, SAMPLES, REQUEST)
    assert result.plan is not None
    assert [layer["name"] for layer in result.plan["layers"]] == ["second", "third"]
    assert result.plan["stays_quantized"] == {
        "bytes": WIDTH * HIDDEN,
        "tensors": [{"name": "codes", "bytes": WIDTH * HIDDEN}],
    }
    assert "Weights of 512 bytes came quantized and are kept as they are: codes." in result.certificate["statement"]
    assert len(result.model) < 0.8 * len(uploaded)


@pytest.mark.parametrize("halves", [False, True])
def test_packed_codes_are_kept(halves: bool) -> None:
    result = pipeline.plan(packed(halves=halves).SerializeToString(), SAMPLES, REQUEST)
    assert result.plan is not None
    assert [layer["name"] for layer in result.plan["layers"]] == ["second", "third"]
    assert result.plan["audit"]["weights"] == 2
    assert result.outcome == "met"


def test_activations_are_planned_beside_those_that_came_rounded() -> None:
    request = {**REQUEST, "budget": {"max_drop": 0.5}, "activations": {"bits": [8]}}
    result = pipeline.plan(behind_dequantize().SerializeToString(), SAMPLES, request)
    assert result.plan is not None
    assert result.plan["activations"]


def test_codes_are_planned_anew() -> None:
    uploaded = behind_dequantize().SerializeToString()
    result = pipeline.plan(uploaded, SAMPLES, ANEW)
    assert result.plan is not None
    assert [layer["name"] for layer in result.plan["layers"]] == ["w", "second", "third"]
    assert result.plan["stays_quantized"] == {"bytes": 0, "tensors": []}
    assert result.plan["float_size_bytes"] == len(uploaded)
    assert len(result.model) < len(uploaded)


def test_a_delivered_file_is_an_upload_like_others() -> None:
    first = pipeline.plan(behind_quantize().SerializeToString(), SAMPLES, REQUEST)
    again = pipeline.plan(first.model, SAMPLES, ANEW)
    assert again.plan is not None
    assert len(again.plan["layers"]) == 3
    assert again.outcome == "met"
    assert len(again.model) < len(first.model) + 500

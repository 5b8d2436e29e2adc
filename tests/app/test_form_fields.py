"""Texts of a form become the request that they say, and a stored request the texts that stand for it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from app.errors import AppError
from app.pages.form_errors import errors_of
from app.pages.form_fields import members_of, number, size, values_of
from app.schemas.job_request import JobRequest
from app.schemas.parsing import merge, parse_object, parse_request
from tests.app.requests import MODEL, request_of

DEFAULTS = JobRequest(model_id="0" * 64).model_dump(mode="json")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("800000", 800_000),
        ("800 kB", 800_000),
        ("1.5 MB", 1_500_000),
        ("1,500,000", 1_500_000),
        ("2MiB", 2 * 1024**2),
        ("two", "two"),
        ("5 parsecs", "5 parsecs"),
        ("9" * 400, "9" * 400),
    ],
)
def test_sizes(text: str, expected: Any) -> None:
    assert size(text) == expected


@pytest.mark.parametrize("text", ["[" * 100_000, "9" * 5000, "true", "much"])
def test_what_is_no_number_stays_text(text: str) -> None:
    assert number(text) == text


def test_texts_become_members() -> None:
    texts = {
        "model_id": [MODEL],
        "dataset_id": [""],
        "budget.metric": ["top1"],
        "budget.max_drop": [" 0.02 "],
        "budget.confidence": [""],
        "weights.bits": ["2", "4"],
        "activations.bits": ["8"],
        "limits.max_size_bytes": ["500 kB"],
        "layers": ["conv1\n\n fc \n"],
        "tags": ["prod, vision"],
        "opset": ["21"],
        "unheard.of": ["1"],
    }

    assert members_of(texts) == {
        "model_id": MODEL,
        "budget": {"metric": "top1", "max_drop": 0.02},
        "weights": {"bits": [2, 4]},
        "activations": {"bits": [8]},
        "limits": {"max_size_bytes": 500_000},
        "layers": {"conv1": {"keep": True}, "fc": {"keep": True}},
        "tags": ["prod", "vision"],
        "opset": 21,
    }


def test_no_width_is_ticked_where_all_of_the_target_are_meant() -> None:
    texts = {"model_id": [MODEL], "target": ["integer-w4w8-a8"]}
    assert parse_request(members_of(texts)).weights.bits is None
    ticked = parse_request(members_of({**texts, "weights.bits": list("2345678")}))
    assert ticked.weights.bits == (2, 3, 4, 5, 6, 7, 8)


@pytest.mark.parametrize(
    "members",
    [
        {},
        {"budget": {"metric": "mse"}},
        {
            "budget": {"metric": "top5", "options": {"k": 3}, "max_drop": 1e-5, "confidence": 0.9},
            "dataset_id": "b" * 64,
        },
        {"budget": {"metric_id": "c" * 64, "max_drop": 2.5}},
        {"objective": "accuracy", "limits": {"max_size_bytes": 12345}, "seed": 7},
        {"weights": {"formats": ["int4/block32", "codebook3/channel"], "rounding": "nearest"}},
        {"weights": {"granularity": "block", "block_size": 64, "symmetric": False, "bits": [4]}},
        {"target": "integer-w8-a8", "activations": {"bits": [8], "ranges": "minmax"}},
        {"layers": {"a": {"keep": True}, "b": {"bits": [4, 8]}, "c": {"same_as": "b"}}},
        {"layers": {"line\nbreak": {"keep": True}}},
        {"outputs": {"y": {"weight": 0.0}}, "inputs": {"x": {"batch_axis": None}}, "opset": 20},
        {"plan": {"version": 1, "layers": [{"name": "conv1", "format": "int4/channel"}]}},
        {"search": {"method": "evolution", "deadline_seconds": 60.5}, "sensitivity": {"method": "noise"}},
        {"latency_table": {"conv1": {"int4/channel": 0.12}, "base_ms": 0.5}},
    ],
)
def test_a_request_comes_back_from_its_form(members: dict[str, Any]) -> None:
    request = parse_request(request_of(**members))
    values = values_of(request.model_dump(mode="json"), DEFAULTS)

    texts = {name: value if isinstance(value, list) else [value] for name, value in values.items()}
    raw = parse_object(str(values["request"]) or "{}")

    assert parse_request(merge(members_of(texts), raw)) == request


def test_what_has_a_field_does_not_stand_in_the_json() -> None:
    stored = parse_request(request_of(layers={"a": {"keep": True}, "b": {"min_bits": 4}}, seed=3))
    values = values_of(stored.model_dump(mode="json"), DEFAULTS)

    assert json.loads(str(values["request"])) == {"layers": {"b": {"min_bits": 4}}}
    assert values["layers"] == "a"


@pytest.mark.parametrize(
    ("members", "raw", "field"),
    [
        ({"budget": {"max_drop": "much"}}, {}, "budget.max_drop"),
        ({"budget": {"max_drop": 3}}, {}, "budget"),
        ({"weights": {"bits": [2, 9]}}, {}, "weights.bits"),
        ({"opset": "new"}, {}, "opset"),
        ({"search": {"method": "evolution"}}, {"search": {"method": "evolution"}}, "request"),
        ({"layers": {"a": {"bits": [1]}}}, {"layers": {"a": {"bits": [1]}}}, "request"),
        ({"colour": "red"}, {"colour": "red"}, "request"),
        ({"objective": "accuracy"}, {}, "form"),
    ],
)
def test_errors_stand_at_their_fields(members: dict[str, Any], raw: dict[str, Any], field: str) -> None:
    with pytest.raises(AppError) as refused:
        parse_request(request_of(**members))

    assert list(errors_of(refused.value, raw)) == [field]


def test_a_missing_file_is_asked_for() -> None:
    with pytest.raises(AppError) as refused:
        parse_request({})

    assert errors_of(refused.value, {}) == {"model_id": ["choose an .onnx file, or one of the stored models"]}

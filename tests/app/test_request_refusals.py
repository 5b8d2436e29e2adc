from __future__ import annotations

from typing import Any

import pytest

from app.errors import AppError
from app.schemas.parsing import MAX_DEPTH, parse_object, parse_request
from tests.app.requests import MODEL, request_of

REFUSED: list[tuple[dict[str, Any], str, str]] = [
    (
        {"budget": {"max_drop": 1.5}},
        "budget_invalid",
        "max_drop is a fraction below 1, and 1.5 would allow everything to be lost; you probably mean 1.5 percent: "
        "send 0.015",
    ),
    (
        {"budget": {"max_drop": -0.1}},
        "budget_invalid",
        "budget.max_drop: Input should be greater than or equal to 0, got -0.1",
    ),
    ({"budget": {"max_drop": "0.01"}}, "budget_invalid", 'budget.max_drop: Input should be a valid number, got "0.01"'),
    ({"budget": {"max_drop": None}}, "budget_invalid", "budget.max_drop: Input should be a valid number, got null"),
    ({"budget": {"max_drop": True}}, "budget_invalid", "budget.max_drop: Input should be a valid number, got true"),
    (
        {"budget": {"confidence": 1}},
        "budget_invalid",
        "budget.confidence: Input should be less than or equal to 0.999, got 1",
    ),
    (
        {"budget": {"kind": "percent"}},
        "budget_invalid",
        "budget.kind: Input should be 'absolute', 'relative' or 'of_null', got \"percent\"",
    ),
    (
        {"budget": {"metric": "acuracy"}},
        "budget_invalid",
        "budget.metric: Input should be 'top1', 'top5', 'accuracy', 'miou', 'agreement', 'next_token', 'perplexity', ",
    ),
    (
        {"budget": {"metric": "kl", "kind": "relative"}},
        "budget_invalid",
        "kind relative has no meaning for the metric kl",
    ),
    (
        {"budget": {"metric": "top1"}},
        "budget_invalid",
        "top1 needs labels, and the request names no dataset; upload one with PUT /v1/datasets",
    ),
    (
        {"budget": {"maxdrop": 0.1}},
        "budget_invalid",
        "budget.maxdrop: there is no field of this name; fields here: metric, options, metric_id, max_drop, kind, "
        "confidence",
    ),
    (
        {"objective": "accuracy"},
        "request_invalid",
        "the objective accuracy asks for the least drop within limits",
    ),
    ({"limits": {"max_latency_ms": 0}}, "request_invalid", "limits.max_latency_ms: Input should be greater than 0"),
    ({"limits": {"max_load_ms": -1}}, "request_invalid", "limits.max_load_ms: Input should be greater than 0"),
    ({"target": "tpu"}, "request_invalid", "target: Input should be 'onnxruntime-cpu', 'storage-only'"),
    ({"latency_table": {"fc": 0.5}}, "request_invalid", "latency_table.fc: Input should be an object"),
    (
        {"latency_table": {"fc": {"int4/channel": -1}}},
        "request_invalid",
        "latency_table.fc.int4/channel: Input should be greater than or equal to 0, got -1",
    ),
    ({"latency_table": {"base_ms": 1}}, "request_invalid", "a table of latencies names 1 to 10,000 layers"),
    (
        {"layers": {"fc": {"same_as": "fc"}}},
        "constraint_impossible",
        "layers.fc.same_as names the layer itself; name another one",
    ),
    ({"layers": {"fc": {"keep": True, "same_as": "conv"}}}, "request_invalid", "got keep and same_as"),
    (
        {"activations": {"bits": [6]}},
        "request_invalid",
        "activations.bits.0: Input should be 4, 8 or 16",
    ),
    (
        {"objective": "speed"},
        "request_invalid",
        "objective: Input should be 'size', 'bit_operations', 'latency' or 'accuracy', got \"speed\"",
    ),
    (
        {"limits": {"max_size_bytes": 0}},
        "request_invalid",
        "limits.max_size_bytes: Input should be greater than 0, got 0",
    ),
    ({"limits": {"max_size_bytes": 1.5}}, "request_invalid", "limits.max_size_bytes: Input should be a valid integer"),
    ({"weights": {"bits": []}}, "request_invalid", "weights.bits: no width is left; name at least one from 2 to 8"),
    (
        {"weights": {"bits": [1, 8]}},
        "request_invalid",
        "weights.bits.0: Input should be greater than or equal to 2, got 1",
    ),
    ({"weights": {"bits": [16]}}, "request_invalid", "weights.bits.0: Input should be less than or equal to 8, got 16"),
    (
        {"weights": {"rounding": "stochastic"}},
        "request_invalid",
        "weights.rounding: Input should be 'nearest' or 'gptq'",
    ),
    (
        {"weights": {"granularity": "row"}},
        "request_invalid",
        "weights.granularity: Input should be 'channel', 'tensor' or 'block'",
    ),
    (
        {"weights": {"block_size": 64}},
        "request_invalid",
        "weights.block_size is for the granularity block, got channel; leave it out, or set weights.granularity",
    ),
    (
        {"weights": {"formats": ["int4/channel"], "bits": [4]}},
        "request_invalid",
        "weights.formats names every format, and weights.bits describes them another way; leave bits at null",
    ),
    ({"weights": {"formats": ["int4"]}}, "request_invalid", "no format of weights is called 'int4'; expected a name"),
    (
        {"weights": {"formats": ["codebook3/channel/outliers4\N{ARABIC-INDIC DIGIT FIVE}"]}},
        "request_invalid",
        "no format of weights is called 'codebook3/channel/outliers4\N{ARABIC-INDIC DIGIT FIVE}'",
    ),
    ({"weights": {"formats": ["uint8/tensor"]}}, "request_invalid", "no format of weights is called 'uint8/tensor'"),
    ({"weights": {"formats": []}}, "request_invalid", "no format is left; name at least one, such as int4/channel"),
    (
        {"layers": {"fc": {"bits": [8], "formats": ["float16"]}}},
        "request_invalid",
        "got bits and formats",
    ),
    (
        {"sensitivity": {"method": "magic"}},
        "request_invalid",
        "sensitivity.method: Input should be 'auto', 'augmented', 'cross_layer', 'measured', 'hawq_v2'",
    ),
    (
        {"search": {"method": "magic"}},
        "request_invalid",
        "search.method: Input should be 'auto', 'frontier', 'bisection' or 'evolution'",
    ),
    (
        {"search": {"method": "evolution"}},
        "request_invalid",
        "evolution polishes the plan until the deadline, and search.deadline_seconds is null",
    ),
    ({"search": {"deadline_seconds": 0}}, "request_invalid", "search.deadline_seconds: Input should be greater than 0"),
    (
        {"layers": {"fc": {}}},
        "request_invalid",
        'a layer takes exactly one of {"keep": true}, {"bits": [4, 8]}, {"formats": ["int4/block32"]}, '
        '{"min_bits": 4} and {"same_as": "conv2"}, got none of them',
    ),
    ({"layers": {"fc": {"keep": True, "bits": [8]}}}, "request_invalid", "got keep and bits"),
    (
        {"layers": {"fc": {"bit": [8]}}},
        "request_invalid",
        "layers.fc.bit: there is no field of this name; fields here: keep, bits, formats, min_bits, same_as",
    ),
    ({"layers": {"": {"keep": True}}}, "request_invalid", "at least 1 character"),
    (
        {"layers": {"fc": {"min_bits": 8}}, "weights": {"bits": [2, 4]}},
        "constraint_impossible",
        "layers.fc asks for at least 8 bits, but weights ends at 4",
    ),
    ({"opset": 17}, "request_invalid", "opset: Input should be greater than or equal to 18, got 17"),
    ({"opset": 26}, "request_invalid", "opset: Input should be less than or equal to 25, got 26"),
    ({"seed": -1}, "request_invalid", "seed: Input should be greater than or equal to 0, got -1"),
    ({"seed": 2**63}, "request_invalid", "seed: Input should be less than 9223372036854775808"),
    ({"model_id": "abc"}, "request_invalid", "model_id: String should match pattern"),
    (
        {"modelid": "abc"},
        "request_invalid",
        "modelid: there is no field of this name; fields here: model_id, dataset_id, inputs, budget",
    ),
    ({"budget": {"max_drop": 2}, "seed": -1}, "request_invalid", "percent: send 0.02; seed: Input should be"),
]


@pytest.mark.parametrize(("members", "code", "text"), REFUSED, ids=[str(members) for members, _, _ in REFUSED])
def test_what_is_wrong_is_named_with_what_would_be_right(members: dict[str, Any], code: str, text: str) -> None:
    with pytest.raises(AppError) as caught:
        parse_request(request_of(**members))
    assert text in caught.value.detail
    assert caught.value.code == code
    fields = [entry["field"] for entry in caught.value.extra["errors"]]
    assert len(fields) == (2 if len(members) == 2 and code == "request_invalid" else 1)


def test_a_missing_model_is_named() -> None:
    with pytest.raises(AppError, match="request_invalid: model_id: Field required"):
        parse_request({})


def test_many_wrong_fields_are_not_all_listed() -> None:
    with pytest.raises(AppError, match="and 30 more") as caught:
        parse_request(request_of(**{f"field{i}": 1 for i in range(50)}))
    assert len(caught.value.extra["errors"]) == 20


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", "the body is not JSON"),
        (b"{", "the body is not JSON"),
        (b"\xff", "the body is not JSON"),
        (b"[1]", "must be a JSON object, got list"),
        (b'{"seed": NaN}', "NaN is not a JSON number"),
        (b'{"seed": ' + b"9" * 5000 + b"}", "the body is not JSON"),
        (b'{"a":' * 5000 + b"1" + b"}" * 5000, "the body"),
        (b'{"a":' * (MAX_DEPTH + 1) + b"1" + b"}" * (MAX_DEPTH + 1), f"more than {MAX_DEPTH} levels deep"),
    ],
)
def test_a_body_that_is_no_object_is_refused(body: bytes, text: str) -> None:
    with pytest.raises(AppError, match=text) as caught:
        parse_object(body)
    assert caught.value.code == "request_malformed"


def test_numbers_beyond_the_range_of_floats_are_refused() -> None:
    with pytest.raises(AppError) as caught:
        parse_request(parse_object(f'{{"model_id": "{MODEL}", "budget": {{"max_drop": 1e400}}}}'))
    assert caught.value.code == "budget_invalid"

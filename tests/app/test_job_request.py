from __future__ import annotations

import json
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import AppError
from app.schemas.job_request import WIDTHS_OF_TARGETS, JobRequest, Sensitivity, TargetName
from app.schemas.parsing import MAX_DEPTH, parse_object, parse_request
from app.services.jobs import merge
from planner.targets import OPSETS, target, target_names
from quantization.formats import parse_format

MODEL = "a" * 64
DATA = "b" * 64


def _request(**members: Any) -> dict[str, Any]:
    return {"model_id": MODEL, **members}


def test_every_default_is_filled_in() -> None:
    assert parse_request(_request()).model_dump(mode="json") == {
        "model_id": MODEL,
        "dataset_id": None,
        "budget": {"metric": None, "max_drop": 0.01, "kind": "absolute", "confidence": None},
        "objective": "size",
        "limits": {"max_size_bytes": None, "max_bit_operations": None, "max_latency_ms": None},
        "weights": {
            "bits": [2, 3, 4, 5, 6, 7, 8],
            "granularity": "channel",
            "block_size": 32,
            "symmetric": True,
            "formats": None,
            "rounding": "gptq",
            "refinement": "auto",
            "adaround_seconds": 60.0,
            "leftovers": "float16",
        },
        "activations": {"bits": None, "ranges": "mse"},
        "sensitivity": {"method": "auto"},
        "search": {"method": "auto", "deadline_seconds": None},
        "layers": {},
        "target": "onnxruntime-cpu",
        "opset": None,
        "latency_table": None,
        "plan": None,
        "seed": 0,
    }


def test_a_target_leaves_the_widths_that_it_has() -> None:
    request = parse_request(_request(target="integer-w4w8-a8"))
    assert request.weights.bits == (4, 8)
    assert request.weights.granularity == "channel"
    assert parse_request(_request(target="integer-w4w8-a8", weights={"bits": [8]})).weights.bits == (8,)
    assert parse_request(_request(target="storage-only")).weights.bits == (2, 3, 4, 5, 6, 7, 8)


def test_the_targets_are_those_of_the_planner() -> None:
    assert sorted(get_args(TargetName)) == list(target_names())
    for name in target_names():
        assert WIDTHS_OF_TARGETS.get(name, tuple(range(2, 9))) == target(name).weight_bits


def test_the_opsets_are_those_of_the_planner() -> None:
    assert [one for one in range(30) if _is_taken(opset=one)] == list(OPSETS)


def _is_taken(**members: Any) -> bool:
    try:
        parse_request(_request(**members))
    except AppError:
        return False
    return True


def test_a_table_of_latencies_is_taken() -> None:
    table = {"conv1": {"int4/channel": 0.12, "float32": 1}, "base_ms": 0.5}
    assert parse_request(_request(latency_table=table)).model_dump(mode="json")["latency_table"] == table


def test_latency_may_be_the_only_limit_of_the_least_drop() -> None:
    request = parse_request(_request(objective="accuracy", limits={"max_latency_ms": 5}))
    assert request.limits.max_latency_ms == 5


def test_the_request_of_the_documentation_is_taken() -> None:
    text = """
    {"model_id": "MODEL", "dataset_id": "DATA",
     "budget": {"metric": "top1", "max_drop": 0.01, "kind": "absolute", "confidence": null},
     "objective": "size",
     "limits": {"max_size_bytes": null, "max_bit_operations": null, "max_latency_ms": null},
     "weights": {"bits": [2, 3, 4, 5, 6, 8], "granularity": "channel", "rounding": "gptq"},
     "activations": {"bits": null},
     "sensitivity": {"method": "auto"},
     "search": {"method": "auto", "deadline_seconds": null},
     "layers": {"conv1": {"keep": true}, "fc": {"bits": [8]}},
     "seed": 0}"""
    request = parse_request(parse_object(text.replace("MODEL", MODEL).replace("DATA", DATA)))
    assert request.weights.bits == (2, 3, 4, 5, 6, 8)
    assert request.model_dump(mode="json")["layers"] == {"conv1": {"keep": True}, "fc": {"bits": [8]}}


@given(
    bits=st.lists(st.integers(2, 8), min_size=1),
    drop=st.floats(0, 1),
    confidence=st.none() | st.floats(0.5, 0.999),
    layers=st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20),
        st.sampled_from([{"keep": True}, {"keep": False}, {"bits": [4, 2]}, {"min_bits": 2}]),
    ),
    seed=st.integers(0, 2**63 - 1),
)
def test_what_is_stored_reads_back_as_the_same_request(
    bits: list[int], drop: float, confidence: float | None, layers: dict[str, Any], seed: int
) -> None:
    request = parse_request(
        _request(budget={"max_drop": drop, "confidence": confidence}, weights={"bits": bits}, layers=layers, seed=seed)
    )
    stored = json.loads(json.dumps(request.model_dump(mode="json")))
    assert parse_request(stored) == request
    assert stored["weights"]["bits"] == sorted(set(bits))


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    (
        {"budget": {"max_drop": 1.5}},
        "budget_invalid",
        "max_drop is a fraction, and 1.5 is above 1; you probably mean 1.5 percent: send 0.015",
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
        "budget.kind: Input should be 'absolute' or 'relative', got \"percent\"",
    ),
    (
        {"budget": {"metric": "accuracy"}},
        "budget_invalid",
        "budget.metric: Input should be 'top1', 'agreement', 'kl' or 'cosine', got \"accuracy\"",
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
        "budget.maxdrop: there is no field of this name; fields here: metric, max_drop, kind, confidence",
    ),
    (
        {"budget": {"metric": "top5"}},
        "option_not_supported",
        "budget.metric: the metric top5 is not supported yet; take top1, agreement, kl or cosine",
    ),
    (
        {"objective": "accuracy"},
        "request_invalid",
        "the objective accuracy asks for the least drop within limits",
    ),
    ({"limits": {"max_latency_ms": 0}}, "request_invalid", "limits.max_latency_ms: Input should be greater than 0"),
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
        "weights.formats names every format, and weights.bits describes them another way; leave bits at [2, 3, 4",
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
        "modelid: there is no field of this name; fields here: model_id, dataset_id, budget",
    ),
    ({"budget": {"max_drop": 2}, "seed": -1}, "request_invalid", "percent: send 0.02; seed: Input should be"),
]


@pytest.mark.parametrize(("members", "code", "text"), REFUSED, ids=[str(members) for members, _, _ in REFUSED])
def test_what_is_wrong_is_named_with_what_would_be_right(members: dict[str, Any], code: str, text: str) -> None:
    with pytest.raises(AppError) as caught:
        parse_request(_request(**members))
    assert text in caught.value.detail
    assert caught.value.code == code
    fields = [entry["field"] for entry in caught.value.extra["errors"]]
    assert len(fields) == (2 if len(members) == 2 and code == "request_invalid" else 1)


def test_formats_are_named_once_in_order_of_bits() -> None:
    named = ["float16", "int4/block32", "codebook3/channel/outliers45", "int4/block32", "hadamard2/channel"]
    request = parse_request(_request(weights={"formats": named}, layers={"fc": {"formats": ["float16"]}}))
    assert request.weights.formats == (
        "hadamard2/channel",
        "codebook3/channel/outliers45",
        "int4/block32",
        "float16",
    )
    assert request.weights.widest == 16
    assert parse_request(request.model_dump(mode="json")) == request


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize(
    "shared",
    ["int{}/channel", "int{}/tensor/asymmetric", "int{}/block256", "power{}/channel", "hadamard{}/channel"],
)
def test_a_name_is_taken_just_when_there_is_such_a_format(shared: str, bits: int) -> None:
    name = shared.format(bits)
    assert parse_format(name).name == name
    assert parse_request(_request(weights={"formats": [name]})).weights.formats == (name,)
    for wrong in (shared.format(9), shared.format(1), f"{name}/", name.upper()):
        with pytest.raises(ValueError, match="no format"):
            parse_format(wrong)
        with pytest.raises(AppError, match="no format"):
            parse_request(_request(weights={"formats": [wrong]}))


def test_the_least_width_of_an_activation_may_be_above_those_of_weights() -> None:
    members = {"weights": {"bits": [4]}, "activations": {"bits": [4, 8]}, "layers": {"image": {"min_bits": 8}}}
    assert parse_request(_request(**members)).layers["image"].min_bits == 8


def test_a_layer_may_get_widths_that_no_other_layer_gets() -> None:
    request = parse_request(_request(weights={"bits": [2, 4]}, layers={"fc": {"bits": [8]}}))
    assert request.layers["fc"].bits == (8,)


def test_a_missing_model_is_named() -> None:
    with pytest.raises(AppError, match="request_invalid: model_id: Field required"):
        parse_request({})


def test_many_wrong_fields_are_not_all_listed() -> None:
    with pytest.raises(AppError, match="and 30 more") as caught:
        parse_request(_request(**{f"field{i}": 1 for i in range(50)}))
    assert len(caught.value.extra["errors"]) == 20


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", "the body is not JSON"),
        (b"{", "the body is not JSON"),
        (b"\xff", "the body is not JSON"),
        (b"[1]", "must be a JSON object, got list"),
        (b'{"seed": NaN}', "NaN is no JSON number"),
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


@pytest.mark.parametrize(
    ("target", "patch", "result"),
    [  # the test cases of RFC 7396, appendix A, that objects of ours can have
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
        # ours: a constraint on a layer is one thing
        ({"layers": {"a": {"keep": True}}}, {"layers": {"a": {"bits": [8]}}}, {"layers": {"a": {"bits": [8]}}}),
        (
            {"layers": {"a": {"keep": True}}},
            {"layers": {"a": None, "b": {"bits": [4]}}},
            {"layers": {"b": {"bits": [4]}}},
        ),
    ],
)
def test_changes_are_merged_as_the_standard_says(target: Any, patch: Any, result: Any) -> None:
    assert merge(target, patch) == result


def test_a_request_cannot_be_changed() -> None:
    request = JobRequest(model_id=MODEL)
    with pytest.raises(ValueError, match="frozen"):
        request.seed = 1  # type: ignore[misc]


def test_the_methods_of_a_request_are_those_that_a_job_can_plan_with() -> None:
    from workers.stages.methods import CHEAP, DEAR, MEASURED

    named = get_args(Sensitivity.model_fields["method"].annotation)
    assert sorted(named) == sorted(("auto", *MEASURED, *CHEAP, *DEAR))


PLAN = {"version": 1, "layers": [{"name": "conv1", "format": "int4/channel"}]}


def test_of_a_delivered_plan_only_what_decides_is_kept() -> None:
    layer = {"name": "conv1", "format": "int4/channel", "bits": 4, "damage": 0.1, "rounded_with": ["int4/channel"]}
    activation = {"name": "image", "format": "uint8/tensor", "bits": 8, "scale": 0.1, "zero_point": 3}
    plan = {"version": 1, "outcome": "met", "request": {}, "layers": [layer], "activations": [activation]}
    assert parse_request(_request(plan=plan)).model_dump(mode="json")["plan"] == {
        "version": 1,
        "layers": [{"name": "conv1", "format": "int4/channel", "bits": 4, "rounded_with": ["int4/channel"]}],
        "activations": [{"name": "image", "format": "uint8/tensor", "bits": 8}],
    }
    stored = parse_request(_request(plan=plan)).model_dump(mode="json")
    assert parse_request(stored).model_dump(mode="json") == stored


@pytest.mark.parametrize(
    ("plan", "code", "says"),
    [
        ({**PLAN, "version": 2}, "plan_invalid", "this service takes plans of version 1, got 2; make the plan anew"),
        ({**PLAN, "version": True}, "plan_invalid", "got true"),
        ({"layers": PLAN["layers"]}, "request_invalid", "plan.version: Field required"),
        ({**PLAN, "layers": PLAN["layers"] * 2}, "plan_invalid", "plan.layers names 'conv1' more than once"),
        ({**PLAN, "layers": []}, "request_invalid", "at least 1 item"),
        ({**PLAN, "layers": [{"name": "conv1", "bits": 4}]}, "request_invalid", "plan.layers.0.format: Field required"),
        (
            {**PLAN, "layers": [{**PLAN["layers"][0], "fromat": "x"}]},
            "request_invalid",
            "plan.layers.0.fromat: there is",
        ),
        ({**PLAN, "activation": []}, "request_invalid", "fields here: version, layers, activations"),
        ([], "request_invalid", "plan: Input should be an object"),
        (
            {**PLAN, "layers": {"conv1": "int4/channel"}},
            "request_invalid",
            "plan.layers: Input should be a valid array",
        ),
        ({**PLAN, "layers": ["conv1"]}, "request_invalid", "plan.layers.0: Input should be an object"),
    ],
)
def test_a_plan_that_is_none_is_refused(plan: Any, code: str, says: str) -> None:
    with pytest.raises(AppError) as refused:
        parse_request(_request(plan=plan))
    assert (refused.value.code, says in refused.value.detail) == (code, True), refused.value.detail


@pytest.mark.parametrize(
    "of_a_search",
    [
        {"objective": "bit_operations"},
        {"limits": {"max_size_bytes": 3}},
        {"layers": {"fc": {"keep": True}}},
        {"activations": {"bits": [8]}},
        {"search": {"deadline_seconds": 3.0}},
        {"weights": {"bits": [4]}},
        {"weights": {"granularity": "tensor"}},
        {"weights": {"granularity": "block", "block_size": 64}},
        {"weights": {"symmetric": False}},
        {"weights": {"formats": ["int4/channel"]}},
    ],
)
def test_beside_a_plan_there_is_nothing_to_search_for(of_a_search: dict[str, Any]) -> None:
    with pytest.raises(AppError, match=f"leaves nothing to decide by {next(iter(of_a_search))}.*; leave these out"):
        parse_request(_request(plan=PLAN, **of_a_search))


def test_beside_a_plan_count_how_to_round_and_what_is_as_it_would_be_anyway() -> None:
    rounding = {"rounding": "nearest", "refinement": "adaround", "adaround_seconds": 9.0}
    for target_name in target_names():
        members = {
            "weights": {**rounding, "symmetric": True},
            "target": target_name,
            "opset": 18,
            "activations": {"ranges": "minmax"},
        }
        stored = parse_request(_request(plan=PLAN, **members)).model_dump(mode="json")
        assert rounding.items() <= stored["weights"].items()
        assert parse_request(stored).model_dump(mode="json") == stored


def test_a_plan_is_replaced_as_a_whole() -> None:
    before = {**PLAN, "activations": [{"name": "image", "format": "uint8/tensor"}]}
    assert merge({"plan": before, "seed": 1}, {"plan": PLAN}) == {"plan": PLAN, "seed": 1}
    assert merge({"plan": before, "seed": 1}, {"plan": None}) == {"seed": 1}

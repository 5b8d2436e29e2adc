from __future__ import annotations

from typing import Any

import pytest

from app.errors import AppError
from app.schemas.parsing import merge, parse_request
from planner.targets import target_names
from tests.app.requests import request_of

PLAN = {"version": 1, "layers": [{"name": "conv1", "format": "int4/channel"}]}


def test_of_a_delivered_plan_only_what_decides_is_kept() -> None:
    layer = {"name": "conv1", "format": "int4/channel", "bits": 4, "damage": 0.1, "rounded_with": ["int4/channel"]}
    activation = {"name": "image", "format": "uint8/tensor", "bits": 8, "scale": 0.1, "zero_point": 3}
    plan = {"version": 1, "outcome": "met", "request": {}, "layers": [layer], "activations": [activation]}
    assert parse_request(request_of(plan=plan)).model_dump(mode="json")["plan"] == {
        "version": 1,
        "layers": [{"name": "conv1", "format": "int4/channel", "rounded_with": ["int4/channel"]}],
        "activations": [{"name": "image", "format": "uint8/tensor"}],
    }
    stored = parse_request(request_of(plan=plan)).model_dump(mode="json")
    assert parse_request(stored).model_dump(mode="json") == stored


@pytest.mark.parametrize(
    ("plan", "code", "says"),
    [
        ({**PLAN, "version": 2}, "plan_invalid", "this service takes plans of version 1, got 2; make a new plan"),
        ({**PLAN, "version": True}, "plan_invalid", "got true"),
        ({**PLAN, "layers": PLAN["layers"] * 2}, "plan_invalid", "plan.layers names 'conv1' more than once"),
        ({**PLAN, "layers": []}, "plan_invalid", "plan names no layer; give formats by name"),
        ({"base": "conv1"}, "request_invalid", "plan.base: String should match pattern"),
        ({"base": "float32", "frontier_point": 1}, "plan_invalid", "leave frontier_point out"),
        ({"frontier_point": -1}, "request_invalid", "plan.frontier_point: Input should be greater than or equal to 0"),
        ({"activations": {"image": 8}}, "request_invalid", "plan.activations.0.format: Input should be a valid string"),
        ({**PLAN, "layers": [{"name": "conv1", "bits": 4}]}, "request_invalid", "plan.layers.0.format: Field required"),
        (
            {**PLAN, "layers": [{**PLAN["layers"][0], "fromat": "x"}]},
            "request_invalid",
            "plan.layers.0.fromat: there is",
        ),
        ({**PLAN, "activation": []}, "request_invalid", "fields here: version, base, frontier_point, layers"),
        ([], "request_invalid", "plan: Input should be an object"),
        ({**PLAN, "layers": ["conv1"]}, "request_invalid", "plan.layers.0: Input should be an object"),
    ],
)
def test_a_plan_that_is_none_is_refused(plan: Any, code: str, says: str) -> None:
    with pytest.raises(AppError) as refused:
        parse_request(request_of(plan=plan))
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
    with pytest.raises(AppError, match=f"so {next(iter(of_a_search))}.* cannot be given with it; leave these out"):
        parse_request(request_of(plan=PLAN, **of_a_search))


def test_beside_a_plan_count_how_to_round_and_what_is_as_it_would_be_anyway() -> None:
    rounding = {"rounding": "nearest", "refinement": "sequential"}
    for target_name in target_names():
        members = {
            "weights": {**rounding, "symmetric": True},
            "target": target_name,
            "opset": 18,
            "activations": {"ranges": "minmax"},
        }
        stored = parse_request(request_of(plan=PLAN, **members)).model_dump(mode="json")
        assert rounding.items() <= stored["weights"].items()
        assert parse_request(stored).model_dump(mode="json") == stored


def test_formats_by_name_are_rows() -> None:
    plan = {"base": "float32", "layers": {"conv1": "int4/channel"}, "activations": {"image": "uint8/tensor"}}
    assert parse_request(request_of(plan=plan)).model_dump(mode="json")["plan"] == {
        "version": 1,
        "base": "float32",
        "layers": [{"name": "conv1", "format": "int4/channel", "rounded_with": None}],
        "activations": [{"name": "image", "format": "uint8/tensor"}],
    }


def test_a_plan_is_replaced_as_a_whole() -> None:
    before = {**PLAN, "activations": [{"name": "image", "format": "uint8/tensor"}]}
    assert merge({"plan": before, "seed": 1}, {"plan": PLAN}) == {"plan": PLAN, "seed": 1}
    assert merge({"plan": before, "seed": 1}, {"plan": None}) == {"seed": 1}

"""Plans that name only what differs from the plan of a job, or from a point of its frontier."""

from __future__ import annotations

from typing import Any

import pytest

from app.errors import AppError
from app.schemas.plan import AppliedPlan
from app.schemas.plan_changes import changed_plan, point_plan

DELIVERED: dict[str, Any] = {
    "layers": [
        {"name": "conv1", "weight": "conv1.weight", "nodes": ["first"], "format": "int4/channel", "bits": 4,
         "rounded_with": ["int4/channel", "int8/channel"]},
        {"name": "lstm:W", "weight": "w", "nodes": ["lstm"], "format": "int8/channel", "bits": 8, "rounded_with": None},
        {"name": "lstm:R", "weight": "r", "nodes": ["lstm"], "format": "float32", "bits": 32, "rounded_with": None},
    ],
    "activations": [],
}  # fmt: skip
QUANTIZED = {
    **DELIVERED,
    "activations": [
        {"name": "image", "format": "uint8/tensor", "bits": 8},
        {"name": "r1", "format": "float32", "bits": 32},
    ],
}


def _formats(plan: AppliedPlan) -> dict[str, str]:
    return {row.name: row.format for row in (*plan.layers, *(plan.activations or ()))}


@pytest.mark.parametrize("name", ["conv1", "conv1.weight", "first"])
def test_what_is_not_named_keeps_its_format(name: str) -> None:
    whole = changed_plan(DELIVERED, AppliedPlan.model_validate({"layers": {name: "int8/channel"}}))
    assert _formats(whole) == {"conv1": "int8/channel", "lstm:W": "int8/channel", "lstm:R": "float32"}
    assert whole.layers[0].rounded_with == ["int4/channel", "int8/channel"]
    assert (whole.base, whole.activations) == (None, [])


def test_a_whole_plan_is_what_it_says() -> None:
    rows = [{**row, "format": "int2/tensor"} for row in DELIVERED["layers"]]
    whole = changed_plan(QUANTIZED, AppliedPlan.model_validate({"layers": rows, "activations": []}))
    assert set(_formats(whole).values()) == {"int2/tensor"}


def test_activations_that_are_not_named_are_those_of_the_base() -> None:
    assert _formats(changed_plan(QUANTIZED, AppliedPlan.model_validate({"layers": {"conv1": "int2/tensor"}}))) == {
        "conv1": "int2/tensor",
        "lstm:W": "int8/channel",
        "lstm:R": "float32",
        "image": "uint8/tensor",
        "r1": "float32",
    }
    changed = changed_plan(QUANTIZED, AppliedPlan.model_validate({"activations": {"r1": "uint4/tensor"}}))
    assert _formats(changed).items() >= {"image": "uint8/tensor", "r1": "uint4/tensor"}.items()


def test_activations_of_a_base_that_has_none_stay_float32() -> None:
    changed = changed_plan(DELIVERED, AppliedPlan.model_validate({"activations": {"r1": "uint8/tensor"}}))
    assert (changed.base, _formats(changed)["r1"]) == ("float32", "uint8/tensor")


@pytest.mark.parametrize(
    ("layers", "code", "says"),
    [
        ([{"name": "conv9", "format": "float32"}], "layers_unknown", "names 'conv9'.*has conv1, lstm:W, lstm:R"),
        ([{"name": "lstm", "format": "float32"}], "plan_invalid", "'lstm', which is .* of several layers: lstm:W, lst"),
        (
            [{"name": "conv1", "format": "float32"}, {"name": "first", "format": "float32"}],
            "plan_invalid",
            "names 'conv1' twice",
        ),
        (
            [{"name": "conv1", "format": "int4/channel", "bits": 8}],
            "plan_invalid",
            "gives 'conv1' 8 bits, and still the format int4/channel; the format decides: change it",
        ),
    ],
)
def test_what_does_not_fit_the_base_is_refused(layers: Any, code: str, says: str) -> None:
    with pytest.raises(AppError, match=says) as refused:
        changed_plan(DELIVERED, AppliedPlan.model_validate({"layers": layers}))
    assert refused.value.code == code


def test_figures_that_contradict_a_changed_format_do_not_count() -> None:
    row = {"name": "conv1", "format": "int8/channel", "bits": 4}
    assert _formats(changed_plan(DELIVERED, AppliedPlan.model_validate({"layers": [row]})))["conv1"] == "int8/channel"


def test_a_point_of_the_frontier_has_the_formats_of_the_point() -> None:
    halves = {**QUANTIZED, "layers": [*DELIVERED["layers"][:2], {**DELIVERED["layers"][2], "format": "float16"}]}
    of_layers = {"conv1": "int2/channel", "lstm:W": "float32", "lstm:R": "float32"}
    formats = {**of_layers, "image": "uint4/tensor", "r1": "float32"}
    bits = {"conv1": 2, "lstm:W": 32, "lstm:R": 32, "image": 4, "r1": 32}
    point = point_plan(halves, {"formats": formats, "bits": bits})
    whole = changed_plan(point, AppliedPlan.model_validate({"layers": {"lstm:W": "int8/channel"}}))
    assert _formats(whole) == {**formats, "lstm:W": "int8/channel", "lstm:R": "float16"}

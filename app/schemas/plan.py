"""The plan as the service publishes it (a JSON Schema), and as a request brings it back.

A request takes a delivered plan unchanged and keeps only the members that decide: a format for each name. So the stored
request is short, and a plan may be written by hand. It may name only what differs from a base (`plan_changes`).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from app.schemas.strict import MAX_LAYERS, LayerName, Strict, refuse
from app.schemas.weights import OF_CANDIDATES, Weights

PLAN_VERSION = 1
"""Of the plans that are delivered and taken; `plan-1.json` is their schema."""

ALL_FLOAT = "float32"
"""The base in which nothing is quantized."""

MOST_TOGETHER = 64
"""Formats that one weight may be rounded to at once, as many as `weights.formats` may name."""

FormatName = Annotated[str, Field(min_length=1, max_length=100)]


@cache
def plan_schema_text() -> bytes:
    """The schema of a delivered plan, JSON Schema of draft 2020-12."""
    return files("app.schemas").joinpath(f"plan-{PLAN_VERSION}.json").read_bytes()


@cache
def _members(definition: str) -> frozenset[str]:
    """Names of the members that the schema gives a `layer`, an `activation`, or (for "") the plan."""
    schema = json.loads(plan_schema_text())
    return frozenset((schema["$defs"][definition] if definition else schema)["properties"])


def _deciding(value: Any, described: Collection[str], wanted: Collection[str]) -> Any:
    """`value` without the members of delivered plans that decide nothing; unknown members stay."""
    if not isinstance(value, Mapping):
        return value
    return {name: member for name, member in value.items() if name in wanted or name not in described}


def _known_version(value: Any) -> Any:
    if value != PLAN_VERSION or isinstance(value, bool):
        refuse(
            "plan_invalid",
            f"this service takes plans of version {PLAN_VERSION}, got {json.dumps(value)[:40]}; make a new plan, or "
            f"convert it to GET /v1/schemas/plan-{PLAN_VERSION}.json",
        )
    return value


def _rows(value: Any) -> Any:
    """The short form of rows, formats by name, as rows."""
    if not isinstance(value, Mapping):
        return value
    return [{"name": name, "format": format_} for name, format_ in value.items()]


def _or_by_name(schema: dict[str, Any]) -> None:
    """Say in a JSON Schema of rows that formats by name will do."""
    rows = {name: schema.pop(name) for name in ("type", "items", "maxItems", "anyOf") if name in schema}
    by_name = {"type": "object", "additionalProperties": {"type": "string"}, "maxProperties": MAX_LAYERS}
    schema["anyOf"] = [*rows.pop("anyOf", [rows]), by_name]


class AppliedFormat(Strict):
    """What one weight or activation gets."""

    name: LayerName = Field(description="Of the layer (or its weight, or its node) or of the activation.")
    format: FormatName = Field(description="Such as int4/channel, uint8/tensor, or float32 to leave it unchanged.")
    bits: float | None = Field(
        default=None, exclude=True, description="As a delivered plan has it. It decides nothing: the format does."
    )


class AppliedLayer(AppliedFormat):
    rounded_with: Annotated[list[FormatName], Field(max_length=MOST_TOGETHER)] | None = Field(
        default=None,
        description="Formats that GPTQ rounded the weight to at once; the same ones give the same bits.",
    )


class AppliedPlan(Strict):
    """A format for every layer and activation, or for those that differ from a base."""

    version: Annotated[int, BeforeValidator(_known_version)] = Field(
        default=PLAN_VERSION, description="1, the version of delivered plans."
    )
    base: Annotated[str, Field(pattern=f"^({ALL_FLOAT}|[0-9a-f]{{32}})$")] | None = Field(
        default=None,
        description="What layers get that are not named: float32, or the format that they have in the plan of the job "
        "with this id. null: in a replan that of the job itself, else every layer must be named.",
    )
    frontier_point: Annotated[int, Field(ge=0)] | None = Field(
        default=None, description="The base is this point of the job's frontier, from 0, in place of its plan."
    )
    layers: Annotated[list[AppliedLayer], Field(max_length=MAX_LAYERS), BeforeValidator(_rows)] = Field(
        default=[], description="Rows, or formats by name.", json_schema_extra=_or_by_name
    )
    activations: Annotated[list[AppliedFormat], Field(max_length=MAX_LAYERS), BeforeValidator(_rows)] | None = Field(
        default=None,
        description="Rows, or formats by name. Empty: activations stay float32. null: they are those of the base.",
        json_schema_extra=_or_by_name,
    )

    @model_validator(mode="before")
    @classmethod
    def _only_what_decides(cls, plan: Any) -> Any:
        """Drop the other members of a delivered plan; members that it cannot have stay, and are refused."""
        return what_decides(plan)

    @model_validator(mode="after")
    def _names_something_once(self) -> Self:
        for part, rows in (("layers", self.layers), ("activations", self.activations or ())):
            if twice := _repeated([row.name for row in rows]):
                refuse("plan_invalid", f"plan.{part} names {', '.join(twice)} more than once; keep one of them")
        if self.base is None and self.frontier_point is None and not self.layers and not self.activations:
            refuse(
                "plan_invalid",
                'plan names no layer; give formats by name, {"layers": {"conv1": "int8/channel"}}, or a base',
            )
        if self.base == ALL_FLOAT and self.frontier_point is not None:
            refuse(
                "plan_invalid",
                f"plan.frontier_point counts points of a job's frontier, and plan.base is {ALL_FLOAT}; give the id of "
                "the job as base, or leave frontier_point out",
            )
        return self

    @model_serializer(mode="wrap")
    def _without_what_is_not_given(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in serialize(self).items() if value is not None}

    @property
    def stands_alone(self) -> bool:
        """Whether no job is needed to know what it means."""
        return self.base in (None, ALL_FLOAT) and self.frontier_point is None


def what_decides(plan: Any) -> Any:
    """A plan with only the members that a request keeps; anything that is not a plan comes back unchanged."""
    shortened = _deciding(plan, _members(""), AppliedPlan.model_fields)
    if not isinstance(shortened, dict):
        return plan
    parts = {"layers": ("layer", AppliedLayer), "activations": ("activation", AppliedFormat)}
    for part, (definition, model) in parts.items():
        if isinstance(rows := shortened.get(part), list):
            shortened[part] = [_deciding(row, _members(definition), model.model_fields) for row in rows]
    return shortened


def applied_request(plan: Mapping[str, Any]) -> dict[str, Any]:
    """The request, without the ids of uploads, that applies a plan as the job that delivered it did.

    Budget, what is said of outputs, rounding, ranges of activations, target, opset and seed are those of the plan's
    `request`, if it has one; what the weights may get is decided by the plan.
    """
    before = plan.get("request")
    request: dict[str, Any] = {"plan": what_decides(plan)}
    if isinstance(before, Mapping):
        request |= {name: before[name] for name in ("budget", "outputs", "target", "opset", "seed") if name in before}
        parts = {"weights": [n for n in Weights.model_fields if n not in OF_CANDIDATES], "activations": ["ranges"]}
        for part, names in parts.items():
            if isinstance(members := before.get(part), Mapping):
                request[part] = {name: members[name] for name in names if name in members}
    return request


def _repeated(names: Sequence[str]) -> list[str]:
    return [repr(name) for name, count in Counter(names).items() if count > 1]

"""The plan as the service publishes it (a JSON Schema), and as a request brings it back.

A request takes a delivered plan unchanged and keeps only the members that decide: a format for each name. So the stored
request is short, and a plan may be written by hand.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, model_validator

from app.schemas.strict import MAX_LAYERS, LayerName, Strict, refuse
from app.schemas.weights import OF_CANDIDATES, Weights

PLAN_VERSION = 1
"""Of the plans that are delivered and taken; `plan-1.json` is their schema."""

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


class AppliedFormat(Strict):
    """What one weight or activation gets."""

    name: LayerName = Field(description="Of the layer (or its weight, or its node) or of the activation.")
    format: FormatName = Field(description="Such as int4/channel, uint8/tensor, or float32 to leave it unchanged.")
    bits: int | None = Field(default=None, description="Need not be given; if it is, it must be that of the format.")


class AppliedLayer(AppliedFormat):
    rounded_with: Annotated[list[FormatName], Field(max_length=MOST_TOGETHER)] | None = Field(
        default=None,
        description="Formats that GPTQ rounded the weight to at once; the same ones give the same bits.",
    )


class AppliedPlan(Strict):
    """A format for every layer, and for every activation unless all stay float32."""

    version: Annotated[int, BeforeValidator(_known_version)] = Field(description="1, the version of delivered plans.")
    layers: Annotated[list[AppliedLayer], Field(min_length=1, max_length=MAX_LAYERS)]
    activations: Annotated[list[AppliedFormat], Field(max_length=MAX_LAYERS)] = Field(
        default=[], description="Empty: activations stay float32."
    )

    @model_validator(mode="before")
    @classmethod
    def _only_what_decides(cls, plan: Any) -> Any:
        """Drop the other members of a delivered plan; members that it cannot have stay, and are refused."""
        return what_decides(plan)

    @model_validator(mode="after")
    def _each_name_once(self) -> Self:
        for part, rows in (("layers", self.layers), ("activations", self.activations)):
            if twice := _repeated([row.name for row in rows]):
                refuse("plan_invalid", f"plan.{part} names {', '.join(twice)} more than once; keep one of them")
        return self


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

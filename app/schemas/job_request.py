"""The request of a job.

A job is stored with its request as JSON, every default filled in: `JobRequest.model_dump(mode="json")` is what the
worker reads, whatever the defaults of a later version are. Members that only a later version knows get theirs there.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from app.schemas.budget import Budget, OutputBudgets, Sha256, check_budgets, needs_labels
from app.schemas.inputs import Inputs
from app.schemas.plan import AppliedPlan
from app.schemas.strict import MAX_LAYERS, LayerName, Strict, refuse
from app.schemas.weights import OF_CANDIDATES, Bits, BitsList, FormatList, Weights, sorted_once

Objective = Literal["size", "bit_operations", "latency", "accuracy"]
Milliseconds = Annotated[float, Field(ge=0)]
# The files of `planner/profiles`; the service reads none of them, so that it needs no library.
TargetName = Literal["onnxruntime-cpu", "storage-only", "integer-w8-a8", "integer-w4w8-a8", "integer-w2w4w8-a4a8"]


class Limits(Strict):
    """Upper bounds that the plan must keep, besides the budget."""

    max_size_bytes: Annotated[int, Field(gt=0)] | None = None
    max_bit_operations: Annotated[int, Field(gt=0)] | None = None
    max_latency_ms: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="Milliseconds of one run of one sample, or of the batch that the network fixes."
    )
    max_load_ms: Annotated[float, Field(gt=0)] | None = Field(
        default=None,
        description="Milliseconds that loading the file takes, as predicted for a reference machine; the time here is "
        "measured, too, and only told.",
    )


class Activations(Strict):
    bits: Annotated[tuple[Literal[4, 8, 16], ...], AfterValidator(sorted_once)] | None = Field(
        default=None,
        description="Widths that an activation may get: 4, 8 or 16; null: activations stay float32. With 8 bits the "
        "layers run on integer kernels.",
    )
    ranges: Literal["mse", "minmax", "percentile"] = Field(
        default="mse",
        description="How a range follows from the calibration samples: by least squared error, from the lowest to the "
        "highest value, or without the outermost values.",
    )


Estimator = Literal[
    "hawq_v2",
    "fisher_weights",
    "fisher_outputs",
    "m_fac",
    "directional",
    "hawq",
    "q_bert",
    "noise",
    "quantization_error",
]


class Sensitivity(Strict):
    method: Literal["auto", "augmented", "cross_layer", "measured", Estimator] = Field(
        default="auto",
        description="What predicts the damage of a plan. auto: of those that ran the one that agrees best with random "
        "plans that are measured. augmented, cross_layer and measured always run.",
    )
    compare: Annotated[tuple[Estimator, ...], Field(max_length=9)] = Field(
        default=(),
        description="Further methods to run and to compare with measured plans; hawq_v2 also gives the Hessian traces.",
    )


class Search(Strict):
    method: Literal["auto", "frontier", "bisection", "evolution"] = Field(
        default="auto",
        description="frontier: bisection along the frontier of cost against predicted damage; bisection: level by "
        "level in the order of sensitivity; evolution: frontier, and what it finds is polished until the deadline; "
        "auto: frontier.",
    )
    deadline_seconds: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="After this time from the start the best plan found so far is delivered."
    )
    drop_per_damage: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = Field(
        default=None,
        description="What plans of this network lose for each unit of predicted damage, as far as that is known: the "
        "search begins with the plan that loses the budget by it, and ends with the first that keeps the budget unless "
        "another is expected to be smaller by more than 4 %. null: not known, and a whole search. A replan takes it "
        "from the plans that its job measured, unless it is given, null included.",
    )

    @model_validator(mode="after")
    def _evolution_ends(self) -> Self:
        if self.method == "evolution" and self.deadline_seconds is None:
            refuse(
                "request_invalid",
                "search.method evolution polishes the plan until the deadline, and search.deadline_seconds is null; "
                "set it to the seconds that the job may take, or take the method frontier",
            )
        return self


class LayerConstraint(Strict):
    """What one layer may get: exactly one of the five."""

    keep: bool | None = Field(default=None, description="true: the layer stays float32.")
    bits: BitsList | None = Field(default=None, description="The only widths that the layer may get.")
    formats: FormatList | None = Field(default=None, description="The only formats that the layer may get.")
    min_bits: Bits | None = Field(default=None, description="The least width that the layer may get.")
    same_as: LayerName | None = Field(
        default=None, description="Another layer, whose format this one shares; what that one may get, both may."
    )

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        given = [name for name in ("keep", "bits", "formats", "min_bits", "same_as") if getattr(self, name) is not None]
        if len(given) != 1:
            refuse(
                "request_invalid",
                'a layer takes exactly one of {"keep": true}, {"bits": [4, 8]}, {"formats": ["int4/block32"]}, '
                '{"min_bits": 4} and {"same_as": "conv2"}, got ' + (" and ".join(given) if given else "none of them"),
            )
        return self

    @model_serializer(mode="wrap")
    def _only_what_is_given(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in serialize(self).items() if value is not None}


class LatencyTable(Strict):
    """Milliseconds of one run by layer and format: `{"conv1": {"int4/channel": 0.12}, "base_ms": 0.5}`."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, dict[str, Milliseconds]]

    base_ms: Milliseconds = Field(default=0.0, description="What the rest of the network takes.")

    @model_validator(mode="after")
    def _names_layers(self) -> Self:
        if not 1 <= len(self.__pydantic_extra__) <= MAX_LAYERS:
            refuse(
                "request_invalid",
                'a table of latencies names 1 to 10,000 layers, such as {"conv1": {"int4/channel": 0.12}}, got '
                f"{len(self.__pydantic_extra__):,}; leave it null to have them measured",
            )
        return self


class JobRequest(Strict):
    """What to do with a model. Every field but `model_id` has a default."""

    model_id: Sha256 = Field(description="Digest of an uploaded model.")
    dataset_id: Sha256 | None = Field(
        default=None, description="Digest of an uploaded dataset; null: inputs are made from the graph's shapes."
    )
    inputs: Inputs = Field(
        default={}, description="Which axis holds the samples, of inputs where that is to be stated, by input name."
    )
    budget: Budget = Budget()
    outputs: OutputBudgets = Field(
        default={}, description="What single outputs weigh, and by which metric they are measured, by output name."
    )
    objective: Objective = Field(
        default="size",
        description="What to make small; accuracy: the drop, within at least one limit. The budget then only says "
        "whether the outcome is met.",
    )
    limits: Limits = Limits()
    weights: Weights = Weights()
    activations: Activations = Activations()
    sensitivity: Sensitivity = Sensitivity()
    search: Search = Search()
    layers: Annotated[dict[LayerName, LayerConstraint], Field(max_length=MAX_LAYERS)] = Field(
        default={}, description="Constraints by layer or weight name."
    )
    target: TargetName = Field(
        default="onnxruntime-cpu", description="What will run the network: formats that it does not have are refused."
    )
    opset: Annotated[int, Field(ge=18, le=25)] | None = Field(
        default=None, description="Newest ONNX opset that the result may use; null: the newest that the target takes."
    )
    latency_table: LatencyTable | None = Field(
        default=None, description="Milliseconds on your device; null: measured on this machine where latency matters."
    )
    plan: AppliedPlan | None = Field(
        default=None,
        description="A plan to apply without any search, such as one that was delivered, edited or not; null: search "
        "for one.",
    )
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0

    @property
    def uploads(self) -> dict[str, str]:
        """The digests of the uploads that the job reads, by what they are to it."""
        given = {"model": self.model_id, "dataset": self.dataset_id, "metric": self.budget.metric_id}
        return {kind: digest for kind, digest in given.items() if digest is not None}

    @model_validator(mode="after")
    def _no_search_with_a_plan(self) -> Self:
        fields = type(self).model_fields
        given = [name for name in OF_A_SEARCH if getattr(self, name) != fields[name].default]
        of_weights = type(self.weights).model_fields
        given += [f"weights.{n}" for n in OF_CANDIDATES if getattr(self.weights, n) != of_weights[n].default]
        given += ["activations.bits"] * (self.activations.bits is not None)
        if self.plan is not None and given:
            refuse(
                "request_invalid",
                f"plan decides what every layer gets, so {', '.join(given)} cannot be given with it; leave these out "
                "to apply the plan, or send plan null to search for one",
            )
        return self

    @model_validator(mode="after")
    def _labels_come_with_data(self) -> Self:
        check_budgets(self.budget, self.outputs)
        metric = needs_labels(self.budget, self.outputs)
        if metric is not None and self.dataset_id is None:
            refuse(
                "budget_invalid",
                f"the metric {metric} needs labels, and the request names no dataset; upload one with "
                "PUT /v1/datasets and give its id as dataset_id, or take agreement, kl or explained",
            )
        return self

    @model_validator(mode="after")
    def _least_drop_within_something(self) -> Self:
        if self.objective == "accuracy" and all(limit is None for _, limit in self.limits):
            refuse(
                "request_invalid",
                "the objective accuracy asks for the least drop within limits, and without one that is the widest "
                "plan there is; set limits.max_size_bytes, limits.max_bit_operations, limits.max_latency_ms or "
                "limits.max_load_ms, or take the objective size",
            )
        return self

    @model_validator(mode="after")
    def _every_layer_has_a_format_left(self) -> Self:
        # a name may be an activation's, which only the network says
        widest = max(self.weights.widest(self.target), *(self.activations.bits or (0,)))
        for name, constraint in self.layers.items():
            if constraint.same_as == name:
                refuse("constraint_impossible", f"layers.{name}.same_as names the layer itself; name another one")
            if constraint.min_bits is not None and constraint.min_bits > widest:
                refuse(
                    "constraint_impossible",
                    f"layers.{name} asks for at least {constraint.min_bits} bits, but weights ends at {widest}; "
                    f'allow wider weights, or keep the layer in float32 with {{"keep": true}}',
                )
        return self


def uploaded_as(kind: str) -> str:
    """What an upload of a job was sent as: every ONNX file is a model."""
    return "dataset" if kind == "dataset" else "model"


OF_A_SEARCH = ("objective", "limits", "sensitivity", "search", "layers", "latency_table")
"""Fields that only a search obeys: a request with a plan leaves them at their defaults."""

FROM_ELSEWHERE = ("model_id", "dataset_id")
"""Fields that a replan takes from its job, and a multipart request from its parts."""

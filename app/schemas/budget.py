"""The accuracy that a job may spend: by which metrics, of which outputs, how much."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NoReturn, Self

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from app.schemas.strict import MAX_NAME, Strict, refuse

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]

MetricName = Literal[
    "top1",
    "top5",
    "accuracy",
    "miou",
    "agreement",
    "next_token",
    "perplexity",
    "flips",
    "auc",
    "ctc",
    "same",
    "mse",
    "mae",
    "r2",
    "sqnr_db",
    "explained",
    "rank_correlation",
    "recall_at_k",
    "detection_f1",
    "detection_map",
    "kl",
    "cosine",
]
OF_UNITS = ("mse", "mae", "sqnr_db", "perplexity", "kl")
"""Metrics whose drop is no fraction: squared units or units of the output, decibels, a number, nats."""
SHARE_OF_NULL = ("mse", "mae")
"""Metrics whose budget is, unless the request says otherwise, a share of what a network that knows nothing loses."""
NEED_LABELS = ("top1",)
MOST_OUTPUTS = 1000
OutputName = Annotated[str, Field(min_length=1, max_length=MAX_NAME)]
MaxDrop = Annotated[float, Field(ge=0)]


class MetricOptions(Strict):
    """What can be said to a metric; each takes its own of these and refuses the others."""

    axis: Annotated[int, Field(ge=-8, le=8)] | None = Field(
        default=None, description="Of the classes or channels, counted with the sample axis; null: found."
    )
    threshold: float | None = Field(default=None, description="flips, auc: of a score; null: 0.5, or 0 for logits.")
    k: Annotated[int, Field(ge=1, le=1000)] | None = Field(default=None, description="top5, recall_at_k.")
    blank: Annotated[int, Field(ge=0)] | None = Field(default=None, description="ctc: the class that is no symbol.")
    iou: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        default=None, description="Detection: overlap of a found box with a true one."
    )
    score_threshold: float | None = Field(default=None, description="Detection: what counts as found.")
    boxes: OutputName | None = Field(default=None, description="Detection: the output with boxes.")
    scores: OutputName | None = Field(default=None, description="Detection: the output with scores.")
    classes: OutputName | None = Field(default=None, description="Detection: the output with classes.")
    box_format: Literal["xyxy", "cxcywh", "yxyx", "xywh"] | None = Field(default=None, description="Detection.")
    nms_iou: Annotated[float, Field(gt=0, le=1)] | None = Field(
        default=None, description="Detection: boxes of a class that overlap more are one."
    )
    count: OutputName | None = Field(default=None, description="Detection: the output with numbers of detections.")
    objectness: bool | None = Field(default=None, description="Detection: whether a score of any object comes first.")
    activation: Literal["none", "sigmoid", "softmax"] | None = Field(
        default=None, description="Detection: what makes probabilities from the scores."
    )
    background: Literal["none", "first", "last"] | None = Field(
        default=None, description="Detection: the class that is no object."
    )
    higher_is_better: bool | None = Field(default=None, description="A metric of your own; null: yes.")

    @model_serializer(mode="wrap")
    def _only_what_is_given(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in serialize(self).items() if value is not None}


class OutputBudget(Strict):
    """What one output of the network means to its owner."""

    weight: Annotated[float, Field(ge=0, le=1e6)] = Field(
        default=1.0, description="Of this output in the damage that is predicted; 0: it is not looked at."
    )
    metric: MetricName | None = Field(default=None, description="null: one that fits.")
    options: MetricOptions = MetricOptions()
    max_drop: MaxDrop | None = Field(
        default=None, description="Of this output alone, in the unit of its metric; null: that of the budget."
    )

    @model_validator(mode="after")
    def _somebody_obeys_the_options(self) -> Self:
        if self.metric is None and self.options != MetricOptions():
            _refuse_options(self.options)
        return self


_FRACTION = (
    "max_drop is a fraction below 1, and {value:g} would allow everything to be lost; you probably mean {value:g} "
    "percent: send {share:g}"
)


def _refuse_options(options: MetricOptions) -> NoReturn:
    given = next(iter(options.model_dump()))
    refuse(
        "budget_invalid",
        f"options.{given} is said to a metric, and no metric is named here; name the metric that it is meant for, or "
        "leave the options out",
    )


class Budget(Strict):
    """The accuracy that may be spent, measured on held-out samples."""

    metric: MetricName | None = Field(
        default=None,
        description="null: for each output one that fits it and can tell the network from one that knows nothing.",
    )
    options: MetricOptions = MetricOptions()
    metric_id: Sha256 | None = Field(
        default=None,
        description="Digest of an uploaded ONNX graph that is the metric: it takes outputs and arrays of the data by "
        "their names, and gives one number for each sample.",
    )
    max_drop: MaxDrop = Field(
        default=0.01,
        description="A fraction below 1: 0.01 is one percentage point. Of kl in nats, of sqnr_db in decibels; of mse "
        "and mae as `kind` says.",
    )
    kind: Literal["absolute", "relative", "of_null"] = Field(
        default="absolute",
        description="relative: max_drop is a fraction of the float model's own value; of_null: of what a network loses "
        "that answers the mean of the outputs. Left out: absolute, but of_null for mse and mae.",
    )
    confidence: Annotated[float, Field(ge=0.5, le=0.999)] | None = Field(
        default=None,
        description="The budget must hold for the upper end of the drop's interval at this level; null: for the "
        "measured drop itself.",
    )

    @model_validator(mode="before")
    @classmethod
    def _share_of_null(cls, members: Any) -> Any:
        if not isinstance(members, dict):
            return members
        if members.get("metric") == "sqnr_db" and "max_drop" not in members and members.get("kind") != "of_null":
            refuse(
                "budget_invalid",
                "the metric sqnr_db needs max_drop, in decibels: what may be missing of 100 dB, such as 60 for a "
                "ratio of at least 40 dB",
            )
        if "kind" not in members and members.get("metric") in SHARE_OF_NULL:
            return {**members, "kind": "of_null"}
        return members

    @model_validator(mode="after")
    def _fraction(self) -> Self:
        in_units = self.kind == "absolute" and (self.metric in OF_UNITS or self.metric_id is not None)
        if not in_units and self.max_drop >= 1:
            refuse("budget_invalid", _FRACTION.format(value=self.max_drop, share=self.max_drop / 100))
        return self

    @model_validator(mode="after")
    def _something_to_divide_by(self) -> Self:
        if self.metric == "kl" and self.kind == "relative":
            refuse(
                "budget_invalid",
                "kind relative has no meaning for the metric kl: the float model's own value is 0, and so is every "
                "fraction of it; take kind absolute",
            )
        return self

    @model_validator(mode="after")
    def _one_metric(self) -> Self:
        if self.metric_id is not None and self.metric is not None:
            refuse(
                "budget_invalid",
                f"metric_id is a metric of your own, and metric names {self.metric}, too; leave one of them out",
            )
        foreign = [name for name in self.options.model_dump() if name != "higher_is_better"]
        if self.metric_id is not None and foreign:
            refuse(
                "budget_invalid",
                f"a metric of your own takes the option higher_is_better alone, got {', '.join(foreign)}; everything "
                "else is in its graph",
            )
        return self

    @model_validator(mode="after")
    def _somebody_obeys_the_options(self) -> Self:
        if self.metric is None and self.metric_id is None and self.options != MetricOptions():
            _refuse_options(self.options)
        return self


OutputBudgets = Annotated[dict[OutputName, OutputBudget], Field(max_length=MOST_OUTPUTS)]


def check_budgets(budget: Budget, outputs: dict[str, OutputBudget]) -> None:
    """Refuse budgets of single outputs that the common one cannot be compared with, or that allow everything.

    Which budgets are fractions follows from both: the kind of drop is that of the common budget, and so is the metric
    where an output names none.
    """
    own = [name for name, output in outputs.items() if output.max_drop is not None]
    if own and (budget.max_drop == 0 or any(outputs[name].max_drop == 0 for name in own)):
        refuse(
            "budget_invalid",
            f"outputs.{own[0]}.max_drop is a budget of its own, and where there are such no budget can be 0; set a "
            "small number, such as 0.0001",
        )
    for name in own:
        output = outputs[name]
        metric, value = output.metric or budget.metric, output.max_drop or 0.0
        own_graph = output.metric is None and budget.metric_id is not None
        in_units = budget.kind == "absolute" and (metric in OF_UNITS or own_graph)
        if not in_units and value >= 1:
            refuse("budget_invalid", f"outputs.{name}: {_FRACTION.format(value=value, share=value / 100)}")


def needs_labels(budget: Budget, outputs: dict[str, OutputBudget]) -> str | None:
    """The first metric that is asked for and has no meaning without labels."""
    asked = [budget.metric, *(output.metric for output in outputs.values())]
    return next((metric for metric in asked if metric in NEED_LABELS), None)

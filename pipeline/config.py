"""What a job is asked to do, as frozen dataclasses: one slice for each stage.

A slice is at once the stage's argument and the part of the stage's key that the request decides. So a stage cannot
obey what its key lacks: it never sees the request. Facts of the machine that change a result stand in the slices, too:
threads where latencies are measured, and how much may be alive at once where that decides the size of batches.
`Machine` itself may only make a stage faster, or refuse.

`pipeline.configure` is the one place that reads the request of the API. A slice that is None belongs to a stage that
the request does not need.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from app.schemas.job_request import LatencyTable
from app.schemas.job_request import LayerConstraint as LayerConstraintModel
from app.schemas.plan import AppliedPlan
from evaluation.choice import MetricChoice, OutputChoice
from evaluation.metrics.measurement import DropKind
from planner.problem import Limits, Quantity
from quantization.activations.ranges import RangeMethod
from quantization.export.products import Products
from quantization.formats import CodedFormat, IntegerFormat, WeightFormat, weight_format

# What may be alive at once: small next to any machine, large enough that batches keep every core busy. A worker with
# little memory takes at most these shares of its limit.
RUN_BYTES = 256 << 20
KEPT_BYTES = 1 << 30
RUN_SHARE = 1 / 16
KEPT_SHARE = 1 / 4


@dataclass(frozen=True, slots=True)
class Nothing:
    """The result depends on no part of the request."""


@dataclass(frozen=True, slots=True)
class AdmitConfig:
    """`own_metric`: the request has one, which may read further arrays of the dataset. `batch_axes`: what the request
    states of inputs, by name; None where an input belongs to a whole call."""

    own_metric: bool
    batch_axes: tuple[tuple[str, int | None], ...] = ()


@dataclass(frozen=True, slots=True)
class NormaliseConfig:
    """`requantize`: weights that came quantized are planned anew."""

    requantize: bool = False


@dataclass(frozen=True, slots=True)
class SampleConfig:
    """How the samples are split, and how much may be alive at once: in one run, and kept at one cut of the network.

    `as_uploaded`: the network is only run, as it was sent, and nothing is chosen on the samples that splits them.
    """

    seed: int
    run_bytes: int = RUN_BYTES
    kept_bytes: int = KEPT_BYTES
    as_uploaded: bool = False

    @classmethod
    def of(cls, seed: int, memory_limit_bytes: int | None) -> SampleConfig:
        """Within the memory of a worker; from 4 GiB on all workers have the same."""
        if memory_limit_bytes is None:
            return cls(seed)
        run, kept = int(RUN_SHARE * memory_limit_bytes), int(KEPT_SHARE * memory_limit_bytes)
        return cls(seed, min(RUN_BYTES, run), min(KEPT_BYTES, kept))


@dataclass(frozen=True, slots=True)
class LayerConstraint:
    """What one layer may get; exactly one field is not its default."""

    keep: bool = False
    bits: tuple[int, ...] = ()
    formats: tuple[WeightFormat, ...] = ()
    min_bits: int = 0
    same_as: str | None = None

    @classmethod
    def of(cls, constraint: LayerConstraintModel) -> LayerConstraint:
        return cls(
            keep=bool(constraint.keep),
            bits=tuple(constraint.bits or ()),
            formats=tuple(map(weight_format, constraint.formats or ())),
            min_bits=constraint.min_bits or 0,
            same_as=constraint.same_as,
        )


NO_CONSTRAINT = LayerConstraint()


@dataclass(frozen=True, slots=True)
class FormatConfig:
    """The formats that the request allows.

    `weights` are those of every weight that `layers` says nothing about, `integer` is what a width alone stands for,
    `by_name` whether the request names formats and not widths; `coded` are offered besides, though nobody asked, to
    weights that are small enough, and `products` to those that can be multiplied packed
    (`quantization.export.products`); `activations` are None where they stay float32.
    """

    weights: tuple[WeightFormat, ...]
    integer: IntegerFormat
    by_name: bool
    coded: tuple[CodedFormat, ...]
    activations: tuple[int, ...] | None
    layers: Mapping[str, LayerConstraint]
    target: str
    plan: AppliedPlan | None
    products: tuple[IntegerFormat, ...]

    def of_width(self, bits: int) -> list[WeightFormat]:
        """The requested formats of so many bits, or integers where there is none."""
        requested = [format_ for format_ in self.weights if format_.bits == bits]
        return requested or [replace(self.integer, bits=bits)]

    def named(self, constraint: LayerConstraint) -> list[WeightFormat]:
        """The formats that a constraint names, none if it names none."""
        return [*constraint.formats, *(format_ for bits in constraint.bits for format_ in self.of_width(bits))]


@dataclass(frozen=True, slots=True)
class ExportConfig:
    """How files are written: the opset, how layers multiply, and whether float16 holds what is no weight."""

    model_sha256: str
    opset: int
    products: Products
    halves: bool


@dataclass(frozen=True, slots=True)
class SpaceConfig:
    """What plans cost and must keep; `objective` is `accuracy` or a quantity."""

    objective: str
    limits: Limits
    export: ExportConfig

    @property
    def least_drop(self) -> bool:
        """Whether the request asks for the least drop within its limits."""
        return self.objective == "accuracy"

    @property
    def cost(self) -> Quantity:
        """What the frontier trades damage for: the objective, or for the least drop what is limited, size first."""
        return next(quantity for quantity, _ in self.limits.items()) if self.least_drop else Quantity(self.objective)

    @property
    def couples_sites(self) -> bool:
        """Whether the request prices or limits what two decisions cost together."""
        return self.prices(Quantity.BIT_OPERATIONS) or self.prices(Quantity.LATENCY)

    def prices(self, quantity: Quantity) -> bool:
        """Whether the request asks for little of it, or limits it."""
        return quantity in {self.objective, *(limited for limited, _ in self.limits.items())}


@dataclass(frozen=True, slots=True)
class BudgetConfig:
    """The drop that may be spent, by the metrics that the stage `claims` names."""

    max_drop: float
    kind: DropKind
    confidence: float | None


@dataclass(frozen=True, slots=True)
class TimingConfig:
    """Where latencies are measured: the processor with its software, and the threads that run a file."""

    processor: str
    threads: int


@dataclass(frozen=True, slots=True)
class ResolveConfig:
    samples: SampleConfig
    formats: FormatConfig
    space: SpaceConfig
    method: str


@dataclass(frozen=True, slots=True)
class ClaimsConfig:
    """`metric`: for the whole network, None for one that fits each output, `own` for the graph; `outputs`: what is said
    of single ones."""

    samples: SampleConfig
    budget: BudgetConfig
    metric: MetricChoice | None
    outputs: Mapping[str, OutputChoice]


@dataclass(frozen=True, slots=True)
class LatencyConfig:
    """`times`: those of the request, or how to measure them."""

    samples: SampleConfig
    space: SpaceConfig
    times: LatencyTable | TimingConfig


@dataclass(frozen=True, slots=True)
class CalibrateConfig:
    """Every format that any weight may get, and every width of an activation.

    Another constraint on an analysed network finds all candidates there, so of `FormatConfig.layers` only what adds to
    them counts; which of its names are activations only the network says, so with activations those constraints stay.
    """

    samples: SampleConfig
    candidates: FormatConfig
    gptq: bool
    ranges: RangeMethod


@dataclass(frozen=True, slots=True)
class DamageConfig:
    """`weights` of outputs that do not count once; `values`: outputs whose squared error counts, whatever they look
    like; `all_values`: all of them."""

    weights: tuple[tuple[str, float], ...]
    values: tuple[str, ...]
    all_values: bool


@dataclass(frozen=True, slots=True)
class AnalysisConfig:
    samples: SampleConfig
    damage: DamageConfig


@dataclass(frozen=True, slots=True)
class CrossLayerConfig(AnalysisConfig):
    """`every`: all candidates are measured, none is interpolated."""

    every: bool


@dataclass(frozen=True, slots=True)
class SensitivityConfig(AnalysisConfig):
    """`methods`: the estimators to run, as `pipeline.methods.methods_to_run` gives them."""

    methods: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PlanConfig:
    """`deadline_of` is the job whose clock decides, where there is a deadline: no other job finds its result."""

    samples: SampleConfig
    damage: DamageConfig
    space: SpaceConfig
    budget: BudgetConfig
    method: str
    search: str
    drop_per_damage: float | None
    rounds_whole_plans: bool
    deadline_seconds: float | None
    deadline_of: str | None


@dataclass(frozen=True, slots=True)
class CertifyConfig:
    """`timing`: runs of both files are timed here at the end; `loading`: so is loading them."""

    samples: SampleConfig
    space: SpaceConfig
    budget: BudgetConfig
    rounds_whole_plans: bool
    timing: TimingConfig | None
    loading: TimingConfig | None


@dataclass(frozen=True, slots=True)
class ReportConfig:
    """What the report of the job shows; `request` is the request of the API as it was understood."""

    space: SpaceConfig
    damage: DamageConfig
    method: str
    request: Mapping[str, Any] = field(compare=False)


@dataclass(frozen=True, slots=True)
class JobConfig:
    """The slice of every stage, by the stage's name; None for a stage that the request does not need."""

    admit: AdmitConfig
    normalise: NormaliseConfig
    reference: SampleConfig
    resolve: ResolveConfig
    claims: ClaimsConfig
    latency: LatencyConfig | None
    calibrate: CalibrateConfig
    cross_layer: CrossLayerConfig | None
    sensitivity: SensitivityConfig | None
    agreement: AnalysisConfig | None
    plan: PlanConfig | None
    certify: CertifyConfig
    report: ReportConfig

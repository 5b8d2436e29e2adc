"""From the request of the API to the slices of the stages: the one place that reads it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from app.schemas.certificate_request import CertificateRequest
from app.schemas.inputs import InputSpec
from app.schemas.job_request import JobRequest
from evaluation.choice import MetricChoice, OutputChoice
from evaluation.latency import machine as processor
from evaluation.metrics.measurement import DropKind
from evaluation.metrics.own import OWN
from pipeline.config import (
    AdmitConfig,
    AnalysisConfig,
    BudgetConfig,
    CalibrateConfig,
    CertifyConfig,
    ClaimsConfig,
    CrossLayerConfig,
    DamageConfig,
    ExportConfig,
    FormatConfig,
    JobConfig,
    LatencyConfig,
    LayerConstraint,
    NormaliseConfig,
    PlanConfig,
    ReportConfig,
    ResolveConfig,
    SampleConfig,
    SensitivityConfig,
    SpaceConfig,
    TimingConfig,
)
from pipeline.methods import methods_to_run
from pipeline.stage import Machine
from planner.problem import Limits
from planner.targets import target
from quantization.activations.ranges import RangeMethod
from quantization.export.products import Products
from quantization.formats import CodedFormat, Granularity, IntegerFormat, WeightFormat, weight_format

CODED_BY_DEFAULT = (12, 15, 18, 21, 24, 27, 30, 35, 40)
"""Tenths of a bit that a small weight may get where nothing else is asked for."""

# Who asks for one of these says that the outputs are values, whatever they look like.
OF_VALUES = frozenset({"cosine", "explained", "mae", "mse", "r2", "rank_correlation", "recall_at_k", "sqnr_db"})

FAST_PRODUCTS = tuple(
    IntegerFormat(bits, Granularity.BLOCK, True, block) for bits, block in ((4, 32), (4, 128), (8, 128))
)
"""What jobs for latency add where the request names no formats. Fewer bits are no faster, smaller blocks slower."""


def configure(request: JobRequest, machine: Machine, job_id: str) -> JobConfig:
    """The slices of a request on this machine.

    Args:
        job_id: a name of the job's own, which counts where a deadline does.

    Raises:
        ConstraintImpossible: the target of the request takes no opset as new as it asks for.
    """
    samples = SampleConfig.of(request.seed, machine.memory_limit_bytes)
    formats, space, budget = _formats(request), _space(request), budget_of(request)
    method, weights = request.sensitivity.method, request.weights
    damage = _damage(request)
    searches, timing = request.plan is None, TimingConfig(processor(), machine.threads)
    latency = None
    if _wants_latency(request) and searches:
        latency = LatencyConfig(samples, space, request.latency_table or timing)
    measures = latency is not None and latency.times is timing
    loading = None if request.limits.max_load_ms is None else timing
    whole = weights.refinement == "sequential" or (weights.refinement == "auto" and weights.rounding == "gptq")
    search = request.search
    analysis = AnalysisConfig(samples, damage)
    named = methods_to_run([method, *request.sensitivity.compare])
    plan = PlanConfig(
        samples=samples,
        damage=damage,
        space=space,
        budget=budget,
        method=method,
        search=search.method,
        drop_per_damage=search.drop_per_damage,
        rounds_whole_plans=whole,
        deadline_seconds=search.deadline_seconds,
        deadline_of=None if search.deadline_seconds is None else job_id,
    )
    ranges = RangeMethod(request.activations.ranges)
    return JobConfig(
        admit=AdmitConfig(request.budget.metric_id is not None, batch_axes_of(request.inputs)),
        normalise=NormaliseConfig(weights.requantize),
        reference=samples,
        resolve=ResolveConfig(samples, formats, space, method),
        claims=claims_of(request, samples, budget),
        latency=latency,
        calibrate=CalibrateConfig(samples, _candidates(formats), weights.rounding == "gptq", ranges),
        cross_layer=CrossLayerConfig(samples, damage, method in ("cross_layer", "measured")) if searches else None,
        sensitivity=SensitivityConfig(samples, damage, named) if searches else None,
        agreement=analysis if searches else None,
        plan=plan if searches else None,
        certify=CertifyConfig(samples, space, budget, whole, timing if measures else None, loading),
        report=ReportConfig(space, damage, method, request.model_dump(mode="json")),
    )


def _formats(request: JobRequest) -> FormatConfig:
    weights, activations = request.weights, request.activations.bits
    widths = weights.widths(request.target)
    block = weights.block_size if weights.granularity == "block" else 0
    integer = IntegerFormat(widths[0], Granularity(weights.granularity), weights.symmetric, block)
    requested: Iterable[WeightFormat] = (replace(integer, bits=bits) for bits in widths)
    if weights.formats is not None:
        requested = map(weight_format, weights.formats)
    return FormatConfig(
        weights=tuple(requested),
        integer=integer,
        by_name=weights.formats is not None,
        coded=tuple(map(CodedFormat, CODED_BY_DEFAULT)) if _wants_the_smallest(request) else (),
        activations=None if activations is None else tuple(activations),
        layers={name: LayerConstraint.of(constraint) for name, constraint in request.layers.items()},
        target=request.target,
        plan=request.plan,
        products=_products(request),
    )


def _wants_the_smallest(request: JobRequest) -> bool:
    """Whether formats are left to us, and bytes alone count: coded weights are computed with in float, and their bits
    say nothing of operations."""
    of_bytes = request.objective in ("size", "accuracy") and request.limits.max_bit_operations is None
    left_to_us = request.plan is None and request.weights.says_nothing and request.activations.bits is None
    return of_bytes and left_to_us and not _wants_latency(request) and target(request.target).unpacks


def _products(request: JobRequest) -> tuple[IntegerFormat, ...]:
    """Formats that are multiplied packed, for whoever asks for speed, does not say in which formats, and has layers
    timed, so that they are taken only where they pay."""
    runs = target(request.target)
    is_timed = request.objective == "latency" and request.latency_table is None
    if (
        not is_timed
        or not request.weights.says_nothing
        or not runs.unpacks
        or Granularity.BLOCK not in runs.granularities
    ):
        return ()
    return tuple(format_ for format_ in FAST_PRODUCTS if format_.bits in runs.weight_bits)


def _candidates(formats: FormatConfig) -> FormatConfig:
    """`formats` as calibration sees them: constraints that add no candidate are left out."""
    activations = formats.activations
    if formats.plan is not None:
        return replace(formats, layers={}, weights=(), integer=IntegerFormat(8), by_name=False, products=())
    if activations is None:
        added = (format_ for constraint in formats.layers.values() for format_ in formats.named(constraint))
        every = sorted({*formats.weights, *added}, key=lambda format_: format_.name)
        return replace(formats, weights=tuple(every), integer=IntegerFormat(8), by_name=False, layers={}, target="")
    both = {format_.bits for format_ in formats.weights}.intersection(activations)
    layers = {
        name: constraint
        for name, constraint in formats.layers.items()
        if constraint.formats or not both.issuperset(constraint.bits)
    }
    return replace(formats, layers=layers, by_name=False, target="")


def _space(request: JobRequest) -> SpaceConfig:
    export = ExportConfig(
        model_sha256=request.model_id,
        opset=target(request.target).opset_for(request.opset),
        products=_ways_to_multiply(request),
        halves=request.weights.leftovers == "float16",
    )
    return SpaceConfig(request.objective, Limits(**request.limits.model_dump()), export)


def _ways_to_multiply(request: JobRequest) -> Products:
    """How layers may multiply. Inputs are rounded at one scale for all of a call only for whoever leaves formats to the
    job: where that loses too much there are other widths, which multiply in floats."""
    if not _wants_latency(request):
        return Products.FLOAT
    runs = target(request.target)
    is_free = request.plan is None and request.weights.says_nothing and runs.unpacks
    widths = (runs.weight_bits, runs.activation_bits)
    has_kernel = all(8 in bits for bits in widths) and Granularity.CHANNEL in runs.granularities
    return Products.DYNAMIC if is_free and has_kernel else Products.PACKED


def _damage(request: JobRequest) -> DamageConfig:
    weights = sorted((name, output.weight) for name, output in request.outputs.items() if output.weight != 1)
    values = sorted(name for name, output in request.outputs.items() if output.metric in OF_VALUES)
    return DamageConfig(tuple(weights), tuple(values), request.budget.metric in OF_VALUES)


def claims_of(request: JobRequest | CertificateRequest, samples: SampleConfig, budget: BudgetConfig) -> ClaimsConfig:
    outputs = {
        name: OutputChoice(
            output.weight,
            None if output.metric is None else MetricChoice(output.metric, output.options.model_dump()),
            output.max_drop,
        )
        for name, output in request.outputs.items()
    }
    metric = OWN if request.budget.metric_id is not None else request.budget.metric
    chosen = None if metric is None else MetricChoice(metric, request.budget.options.model_dump())
    return ClaimsConfig(samples, budget, chosen, outputs)


def batch_axes_of(inputs: Mapping[str, InputSpec]) -> tuple[tuple[str, int | None], ...]:
    return tuple(sorted((name, stated.batch_axis) for name, stated in inputs.items()))


def budget_of(request: JobRequest | CertificateRequest) -> BudgetConfig:
    budget = request.budget
    return BudgetConfig(budget.max_drop, DropKind(budget.kind), budget.confidence)


def _wants_latency(request: JobRequest) -> bool:
    limited = request.limits.max_latency_ms is not None
    return request.objective == "latency" or limited or request.latency_table is not None

"""Resolve: the request made definite for this model and data; what cannot be is refused before anything is slow."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np

from evaluation.dataset import check_labels
from evaluation.errors import DatasetTooFewSamples, MetricNotApplicable
from evaluation.metrics import Metric, default_metric, measure
from evaluation.runner import OnnxRunner
from evaluation.splits import CALIBRATION_SHARE, MOST_CALIBRATION
from network.errors import NothingToQuantize
from network.graph import Network, Site
from network.normalise import dump
from pipeline.activations import allowed_activations
from pipeline.allowed_formats import (
    allowed_to,
    candidate_formats,
    fitting,
    halves_of,
    named_formats,
    names,
    requested_formats,
)
from pipeline.coupling import Coupling, decisions
from pipeline.differentiable import differentiable
from pipeline.given_plan import applied_plan, brings_plan
from pipeline.methods import covers_activations, needs_gradients
from pipeline.reach import unmeasured_sites
from pipeline.results import pack
from pipeline.search_space import planning_problem
from pipeline.smallest import check_size
from pipeline.stage import StageContext
from pipeline.ties import shared_formats, tied_groups
from pipeline.workspace import Inputs, opset_of
from planner.errors import ConstraintImpossible, LimitUnreachable, MethodNotApplicable, UnknownLayer
from planner.integer import solve_integer
from planner.interactions import unreachable
from planner.problem import Limits, Problem, amount, limit_name
from planner.targets import target

Allowed = dict[str, list[str]]

OBEYED = ("budget", "weights", "activations", "layers", "limits", "objective", "sensitivity", "target", "plan", "opset")
"""The parts of the request that this stage's result depends on."""


def run(context: StageContext) -> bytes:
    """The metric, the formats that the request leaves to every site, and the groups of sites that share one."""
    inputs = Inputs.read(context, opset_of(context.request))
    allowed, tied = allowed_formats(inputs.network, context.request)
    # what a plan takes in milliseconds the next stage finds out, and looks at the limit
    limits = replace(limits_of(context.request), max_latency_ms=None)
    problem = planning_problem(inputs.network, allowed, None, "", halves=halves_of(context.request, inputs.network))
    coupling = Coupling(inputs.network, allowed)
    joint = decisions(context.request, inputs.network, problem, tied, coupling)
    check_size(context.request, inputs.network, problem, joint, limits)
    check_limits(joint.problem, limits)
    _check_batch(inputs)
    _check_method(context.request, inputs)
    if needs_gradients(context.request["sensitivity"]["method"]):
        differentiable(inputs.network)  # refuses operators without a rule before anything expensive starts
    metric = _metric(context, inputs)
    return pack({"metric": metric.value, "allowed": allowed, "tied": tied})


def _check_method(request: Mapping[str, Any], inputs: Inputs) -> None:
    method, batch, there = request["sensitivity"]["method"], inputs.static_batch, len(inputs.sensitivity_samples)
    if method == "q_bert" and batch is not None and there < 2 * batch:
        raise MethodNotApplicable(
            f"sensitivity.method q_bert compares parts of the data, and {there:,} samples are no two "
            f"batches of the {batch:,} that the network fixes; take hawq or auto, or export the network with a dynamic "
            "batch axis"
        )
    if request["activations"]["bits"] is not None and not covers_activations(method):
        raise MethodNotApplicable(
            f"sensitivity.method {method} scores weights alone, and activations.bits asks for activations too; take "
            "auto, or leave activations.bits null"
        )


def limits_of(request: Mapping[str, Any]) -> Limits:
    """The limits of the request as the planner takes them."""
    return Limits(**request["limits"])


def check_limits(problem: Problem, limits: Limits) -> None:
    """Each limit by itself must leave the cheapest plan, and all together some plan.

    Raises:
        LimitUnreachable: they do not; the text names the least values that can be kept.
    """
    for quantity, limit in limits.items():
        values, base = problem.values(quantity), problem.base(quantity)
        cheapest = base + sum(values[start:stop].min() for start, stop in pairwise(problem.offsets))
        if limit < cheapest:
            raise LimitUnreachable(
                f"limits.{limit_name(quantity)} is {limit:,}, but the cheapest plan that weights.bits and layers "
                f"allow has {amount(quantity, cheapest)}; raise the limit to that, or allow fewer bits"
            )
    limited = [quantity for quantity, _ in limits.items()]
    if len(limited) > 1 and solve_integer(problem, limited[0], limits) is None:
        raise unreachable(problem, limits)


def _check_batch(inputs: Inputs) -> None:
    """A graph with a fixed batch is calibrated with whole batches, so that one has to fit."""
    batch, there = inputs.static_batch, len(inputs.splits.calibration)
    if batch is None or batch <= there:
        return
    if batch > MOST_CALIBRATION:
        remedy = f"at most {MOST_CALIBRATION:,} samples calibrate: export the network with a dynamic or a smaller batch"
    else:
        remedy = (
            f"send at least {math.ceil(batch / CALIBRATION_SHARE):,} samples, or export the network with a dynamic "
            "batch axis"
        )
    raise DatasetTooFewSamples(
        f"the network fixes a batch of {batch:,} samples, but of {inputs.dataset.samples:,} only {there:,} are for "
        f"calibration, less than one batch; {remedy}"
    )


def _metric(context: StageContext, inputs: Inputs) -> Metric:
    """The metric that was asked for, or else fits the data; tried on one batch of the search samples.

    Raises:
        MetricNotApplicable: it cannot be computed from the first output, or not with these labels.
        DatasetLabelsOutOfRange: labels that are no classes of the network.
        ModelInvalid: the samples do not lie along the first axis of the first output.
    """
    part = inputs.dataset.take(inputs.splits.search[: inputs.batch])
    output = OnnxRunner(dump(inputs.network), context.threads).first_output(part.inputs, inputs.batch)
    context.check()
    name = inputs.network.outputs[0].name
    if output.dtype.kind != "f":
        raise MetricNotApplicable(
            f"the first output {name!r} holds {output.dtype}; every metric needs floats such as logits: export the "
            "network without ArgMax"
        )
    asked, labels = context.request["budget"]["metric"], inputs.dataset.labels
    if asked is None and labels is not None and (output.ndim < 2 or output.shape[-1] < 2):
        raise MetricNotApplicable(
            f"the data have labels, but the first output {name!r} is {list(output.shape)} for {len(output)} samples, "
            "which is no row of at least 2 classes for each; send `targets` in place of `labels`, or take "
            "budget.metric cosine"
        )
    targets = inputs.dataset.targets is not None
    metric = Metric(asked) if asked else default_metric(output.shape, labels is not None, targets)
    if metric is Metric.TOP1 and labels is None:
        raise MetricNotApplicable(
            "top1 needs labels and the data have none; add an array `labels`, or take the metric agreement"
        )
    measure(metric, output, output, part.labels)
    if metric is Metric.TOP1:
        check_labels(np.asarray(labels), output.shape[-1])
    return metric


def allowed_formats(network: Network, request: Mapping[str, Any]) -> tuple[Allowed, list[list[str]]]:
    """Format names by site name, weights and then activations, and the groups of sites that must share a format.

    Raises:
        UnknownLayer: `layers` names what is no layer, weight or site; the text lists what there is.
        ConstraintImpossible: it names one weight twice and says different things of it, a name is that of several
            weights, weights that must share a format have none in common, or the target does not have a format.
        NothingToQuantize: no weight leads to the first output.
        PlanUnfit: the request brings a plan, and that does not fit the network.
    """
    if brings_plan(request):
        return applied_plan(request, network, sites_by_name(network)).formats(), []
    activations = allowed_activations(network, request)
    _check_target(request, activations, network.opset)
    layers = {name: constraint for name, constraint in request["layers"].items() if name not in activations}
    unmeasured = unmeasured_sites(network)
    if len(unmeasured) == len(network.sites):
        raise NothingToQuantize(
            f"the first output {network.outputs[0].name!r} depends on no weight that can be quantized, and the "
            f"budget is measured there; got {', '.join(sorted(unmeasured))} before other outputs only: export the "
            "network with the output that counts first"
        )
    known = sites_by_name(network)
    constraints = _by_site(layers, known, network)
    allowed = {site.name: names(allowed_to(request, site, constraints.get(site.name, {}))) for site in network.sites}
    if nothing := [name for name, formats in allowed.items() if not formats]:
        raise ConstraintImpossible(
            f"layers.{nothing[0]} asks for at least {constraints[nothing[0]]['min_bits']} bits, and weights has no "
            'format of as many; allow wider weights, or keep the layer in float32 with {"keep": true}'
        )
    tied = tied_groups(network.sites, known, constraints)
    candidates = candidate_formats(request, activations)
    rounded = {site.name: names(fitting(site, candidates)) for site in network.sites}
    allowed = shared_formats(tied, constraints, allowed, rounded)
    # Nothing would measure what fewer bits do to the other outputs; of the widest the last is the one to prefer.
    widest = unmeasured.union(*(group for group in tied if unmeasured.intersection(group)))
    allowed = {name: formats[-1:] if name in widest else formats for name, formats in allowed.items()}
    return {**allowed, **activations}, tied


def _by_site(
    layers: Mapping[str, Mapping[str, Any]], known: Mapping[str, Sequence[Site]], network: Network
) -> dict[str, Mapping[str, Any]]:
    """The constraints of `layers` by site name, whichever of its `known` names the request takes.

    Raises:
        UnknownLayer, ConstraintImpossible: as `allowed_formats`.
    """
    unknown = [name for name in layers if name not in known]
    if unknown:
        raise UnknownLayer(
            f"no layer is called {', '.join(map(repr, unknown))}; the layers that can be planned are "
            f"{', '.join(site.name for site in network.sites)}"
        )
    constraints: dict[str, Mapping[str, Any]] = {}
    for name, constraint in layers.items():
        if len(known[name]) > 1:
            raise ConstraintImpossible(
                f"layers names {name!r}, which is a node or a weight of several layers: "
                f"{', '.join(site.name for site in known[name])}; say which by these names"
            )
        site = known[name][0]
        if constraints.setdefault(site.name, constraint) != constraint:
            raise ConstraintImpossible(
                f"layers names the weight {site.weight!r} twice with different constraints, {name!r} being one "
                f"of its names; say it once, as {site.name!r}"
            )
    return constraints


def _check_target(request: Mapping[str, Any], activations: Collection[str], opset: int) -> None:
    """Every format that the request names must be one of its target's; `activations` are those among its `layers`.

    Raises:
        ConstraintImpossible: one is not; the text names the nearest that is. Or the opset of the result lacks it.
    """
    runs = target(request["target"])
    for format_ in requested_formats(request):
        runs.check_weight_format(
            format_, "weights.bits" if request["weights"]["formats"] is None else "weights.formats"
        )
    for bits in request["activations"]["bits"] or ():
        runs.check_activation_bits(bits, "activations.bits", opset)
    for name, constraint in request["layers"].items():
        if name in activations:
            for bits in constraint.get("bits") or ():
                runs.check_activation_bits(bits, f"layers.{name}.bits", opset)
            continue
        for format_ in named_formats(request, constraint):
            runs.check_weight_format(format_, f"layers.{name}.{'formats' if 'formats' in constraint else 'bits'}")


def sites_by_name(network: Network) -> dict[str, list[Site]]:
    """Every name by which a request may call a weight, with the sites it may mean: one, if it is the site's own."""
    known: dict[str, list[Site]] = {}
    for site in network.sites:
        for alias in site.aliases:
            known.setdefault(alias, []).append(site)
    return known | {site.name: [site] for site in network.sites}

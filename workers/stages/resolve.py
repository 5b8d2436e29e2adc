"""Resolve: the request made definite for this model and data; what cannot be is refused before anything is slow."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np

from evaluation.dataset import check_labels
from evaluation.errors import MetricNotApplicable
from evaluation.metrics import Metric, default_metric
from network.graph import Network
from planner.errors import ConstraintImpossible, LimitUnreachable, UnknownLayer
from planner.problem import Limits, Problem, limit_name
from quantization.formats import FloatFormat, Granularity, IntegerFormat
from workers.stage import StageContext
from workers.stages.inputs import Inputs
from workers.stages.payload import pack
from workers.stages.problem import planning_problem

Allowed = dict[str, list[str]]


def run(context: StageContext) -> bytes:
    """The metric, and the formats that the request leaves to every site."""
    inputs = Inputs.read(context)
    metric = _metric(inputs, context.request["budget"]["metric"])
    allowed = allowed_formats(inputs.network, context.request["weights"], context.request["layers"])
    _check_limits(planning_problem(inputs.network, allowed, None, ""), limits_of(context.request))
    return pack({"metric": metric.value, "allowed": allowed})


def limits_of(request: Mapping[str, Any]) -> Limits:
    """The limits of the request as the planner takes them."""
    limits = request["limits"]
    return Limits(max_size_bytes=limits["max_size_bytes"], max_bit_operations=limits["max_bit_operations"])


def _check_limits(problem: Problem, limits: Limits) -> None:
    """Each limit by itself must leave the cheapest plan."""
    for quantity, limit in limits.items():
        values, base = problem.values(quantity), problem.base(quantity)
        cheapest = base + sum(values[start:stop].min() for start, stop in pairwise(problem.offsets))
        if limit < cheapest:
            raise LimitUnreachable(
                f"limits.{limit_name(quantity)} is {limit:,.0f}, but the cheapest plan that weights.bits and layers "
                f"allow has {cheapest:,.0f}; raise the limit to that, or allow fewer bits"
            )


def _metric(inputs: Inputs, asked: str | None) -> Metric:
    labels, shape = inputs.dataset.labels, inputs.network.outputs[0].shape
    metric = Metric(asked) if asked else default_metric(shape, labels is not None, inputs.dataset.targets is not None)
    if metric is Metric.TOP1:
        if labels is None:
            raise MetricNotApplicable(
                "top1 needs labels and the data have none; add an array `labels`, or take the metric agreement"
            )
        classes = shape[-1] if shape else None
        if classes is not None:
            check_labels(np.asarray(labels), classes)
    return metric


def candidate_bits(request: Mapping[str, Any]) -> list[int]:
    """Every width that any site may get, ascending: those of `weights`, and what `layers` asks for beside them."""
    beside = [bits for constraint in request["layers"].values() for bits in constraint.get("bits") or ()]
    return sorted({*request["weights"]["bits"], *beside})


def allowed_formats(network: Network, weights: Mapping[str, Any], layers: Mapping[str, Mapping[str, Any]]) -> Allowed:
    """Format names by site name.

    Raises:
        UnknownLayer: `layers` names what is no layer, weight or site; the text lists what there is.
        ConstraintImpossible: it names one weight twice and says different things of it.
    """
    known = {alias: site for site in network.sites for alias in site.aliases}
    unknown = [name for name in layers if name not in known]
    if unknown:
        raise UnknownLayer(
            f"no layer is called {', '.join(map(repr, unknown))}; the layers that can be planned are "
            f"{', '.join(site.name for site in network.sites)}"
        )
    constraints: dict[str, Mapping[str, Any]] = {}
    for name, constraint in layers.items():
        if constraints.setdefault(known[name].name, constraint) != constraint:
            raise ConstraintImpossible(
                f"layers names the weight {known[name].weight!r} twice with different constraints, {name!r} being one "
                f"of its names; say it once, as {known[name].name!r}"
            )
    granularity = Granularity(weights["granularity"])
    return {
        site.name: _formats(sorted(weights["bits"]), granularity, constraints.get(site.name, {}))
        for site in network.sites
    }


def _formats(bits: list[int], granularity: Granularity, constraint: Mapping[str, Any]) -> list[str]:
    if constraint.get("keep"):
        return [FloatFormat().name]
    chosen = constraint.get("bits") or [width for width in bits if width >= constraint.get("min_bits", 0)]
    return [IntegerFormat(width, granularity).name for width in sorted(chosen)]

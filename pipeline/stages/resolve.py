"""Resolve: the request made definite for this model and data; what cannot be is refused before anything is slow."""

from __future__ import annotations

import math

import numpy as np

from evaluation.dataset import check_labels
from evaluation.errors import DatasetTooFewSamples, MetricNotApplicable
from evaluation.metrics import Metric, default_metric, measure
from evaluation.runner import OnnxRunner
from evaluation.splits import CALIBRATION_SHARE, MOST_CALIBRATION
from network.execution import differentiable
from network.normalise import dump
from pipeline.allowed_formats import allowed_formats
from pipeline.config import ResolveConfig
from pipeline.context import Context
from pipeline.methods import covers_activations, needs_gradients
from pipeline.results import pack
from pipeline.workspace import Inputs
from planner.errors import MethodNotApplicable


def run(context: Context, config: ResolveConfig) -> bytes:
    """The metric, the formats that the request leaves to every site, and the groups of sites that share one."""
    inputs = context.workspace.inputs(config.samples, config.space.export.opset)
    allowed, tied = allowed_formats(inputs.network, config.formats)
    context.workspace.build_space(config.space, allowed, tied).check()
    _check_batch(inputs)
    _check_method(config, inputs)
    if needs_gradients(config.method):
        differentiable(inputs.network)  # refuses operators without a rule before anything expensive starts
    metric = _metric(context, config, inputs)
    return pack({"metric": metric.value, "allowed": allowed, "tied": tied})


def _check_method(config: ResolveConfig, inputs: Inputs) -> None:
    method, batch, there = config.method, inputs.static_batch, len(inputs.sensitivity_samples)
    if method == "q_bert" and batch is not None and there < 2 * batch:
        raise MethodNotApplicable(
            f"sensitivity.method q_bert compares parts of the data, and {there:,} samples do not fill two "
            f"batches of the {batch:,} that the network fixes; take hawq or auto, or export the network with a dynamic "
            "batch axis"
        )
    if config.formats.activations is not None and not covers_activations(method):
        raise MethodNotApplicable(
            f"sensitivity.method {method} scores weights alone, and activations.bits asks for activations too; take "
            "auto, or leave activations.bits null"
        )


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


def _metric(context: Context, config: ResolveConfig, inputs: Inputs) -> Metric:
    """The metric that was asked for, or else fits the data; tried on one batch of the search samples.

    Raises:
        MetricNotApplicable: it cannot be computed from the first output, or not with these labels.
        DatasetLabelsOutOfRange: labels that are no classes of the network.
        ModelInvalid: the samples do not lie along the first axis of the first output.
    """
    part = inputs.dataset.take(inputs.splits.search[: inputs.batch])
    output = OnnxRunner(dump(inputs.network), context.machine.threads).first_output(part.inputs, inputs.batch)
    context.check()
    name = inputs.network.outputs[0].name
    if output.dtype.kind != "f":
        raise MetricNotApplicable(
            f"the first output {name!r} holds {output.dtype}; every metric needs floats such as logits: export the "
            "network without ArgMax"
        )
    labels = inputs.dataset.labels
    if config.metric is None and labels is not None and (output.ndim < 2 or output.shape[-1] < 2):
        raise MetricNotApplicable(
            f"the data have labels, but the first output {name!r} is {list(output.shape)} for {len(output)} samples, "
            "which is no row of at least 2 classes for each; send `targets` in place of `labels`, or take "
            "budget.metric cosine"
        )
    targets = inputs.dataset.targets is not None
    metric = config.metric or default_metric(output.shape, labels is not None, targets)
    if metric is Metric.TOP1 and labels is None:
        raise MetricNotApplicable(
            "top1 needs labels and the data have none; add an array `labels`, or take the metric agreement"
        )
    measure(metric, output, output, part.labels)
    if metric is Metric.TOP1:
        check_labels(np.asarray(labels), output.shape[-1])
    return metric

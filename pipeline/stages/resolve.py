"""Resolve: the request made definite for this model and data; what cannot be is refused before anything is slow."""

from __future__ import annotations

import math

from evaluation.errors import DatasetTooFewSamples
from evaluation.splits import CALIBRATION_SHARE, MOST_CALIBRATION
from network.execution import differentiable
from pipeline.allowed_formats import allowed_formats
from pipeline.config import ResolveConfig
from pipeline.context import Context
from pipeline.methods import covers_activations, needs_gradients
from pipeline.results import pack
from pipeline.unreached import unreached_sites
from pipeline.workspace import Inputs
from planner.errors import MethodNotApplicable


def run(context: Context, config: ResolveConfig) -> bytes:
    """The formats that the request leaves to every site, and the groups of sites that share one."""
    inputs = context.workspace.inputs(config.samples, config.space.export.opset)
    unreached = unreached_sites(context, inputs)
    allowed, tied = allowed_formats(inputs.network, config.formats, unreached)
    context.workspace.build_space(config.space, allowed, tied).check()
    _check_batch(inputs)
    _check_method(config, inputs)
    if needs_gradients(config.method):
        differentiable(inputs.network)  # refuses operators without a rule before anything expensive starts
    return pack({"allowed": allowed, "tied": tied, "unreached": sorted(unreached)})


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

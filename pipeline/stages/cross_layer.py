"""Cross-layer: one pass for each measured candidate gives its damage, and the matrix of all interactions.

Of each weight some formats are measured, and the others lie between them (`sensitivity.anchors`); all are where the
request names the method that takes the matrix as it is.

Needs nothing but ONNX Runtime, so that any graph can be planned. Some candidates of one site are a chunk.
"""

from __future__ import annotations

import time

import numpy as np

from network.graph import Network
from pipeline.config import CrossLayerConfig
from pipeline.context import Context
from pipeline.events import MethodTimed
from pipeline.forecast import forecast_passes
from pipeline.methods import float_passes
from pipeline.part_chunks import part_chunks
from pipeline.results import number, pack
from pipeline.workspace import Inputs
from sensitivity.anchors import anchors, interpolated
from sensitivity.cross_layer import CrossLayer, cross_layer
from sensitivity.estimate import Change, Unit, WeightChange
from sensitivity.loss import Loss


def run(context: Context, config: CrossLayerConfig) -> bytes:
    """The factors of the matrix `[K, K]` and what its passes measured, of every candidate: sites in order, formats by
    bits."""
    (inputs, loss), candidates = context.workspace.analysed(config), context.workspace.candidates()
    changes, sites = candidates.changes(inputs.network), candidates.format_names(inputs.network)
    owners = [change.site for change in changes]
    errors = [_squared_error(inputs.network, change) for change in changes]
    places = list(range(len(changes))) if config.every else anchors(owners, errors)
    measured = tuple(changes[place] for place in places)
    passes = float_passes("measured", inputs.network, len(measured))
    context.event(forecast_passes(inputs, loss, passes, len(measured), context.machine.threads))
    matrix = interpolated(_measured(context, inputs, measured, loss), places, owners, errors)
    note = "" if len(places) == len(changes) else f"{len(places)} of {len(changes)} candidates measured, others between"
    facts = {"unit": Unit.DAMAGE.value, "samples": matrix.samples, "float_passes": passes, "note": note}
    return pack(
        {
            "loss": loss.document(),
            "samples": matrix.samples,
            "sites": list(sites),
            "formats": list(sites.values()),
            "sketch_error": number(matrix.sketch_error),
            "methods": {"measured": facts, "cross_layer": facts},
        },
        {
            "anchors": matrix.matrix.anchors,
            "anchor_of": matrix.matrix.anchor_of,
            "root": matrix.matrix.root,
            "score/measured": matrix.measured,
            "stderr/measured": matrix.measured_stderr,
            "score/cross_layer": matrix.damage,
            "stderr/cross_layer": matrix.damage_stderr,
        },
    )


def _squared_error(network: Network, change: Change) -> float | None:
    """Of a weight, summed; None for an activation."""
    if not isinstance(change, WeightChange):
        return None
    values = network.weight(change.initializer)
    return float(np.square(change.values() - values, dtype=np.float64).sum())


def _measured(context: Context, inputs: Inputs, changes: tuple[Change, ...], loss: Loss) -> CrossLayer:
    """The matrix; the seconds of its passes are reported, and stand in no result."""
    started = time.perf_counter()
    matrix = cross_layer(
        inputs.network,
        changes,
        inputs.take(inputs.sensitivity_samples),
        loss,
        threads=context.machine.threads,
        generator=np.random.default_rng(inputs.config.seed),
        batch=inputs.batch,
        group=inputs.group,
        spread=part_chunks(context),
        check=context.progress,
    )
    for method in ("measured", "cross_layer"):
        context.event(MethodTimed(method, time.perf_counter() - started))
    return matrix

"""Cross-layer: one pass for each candidate gives its measured damage, and the matrix of all interactions.

Needs nothing but ONNX Runtime, so that any graph can be planned. Some candidates of one site are a chunk.
"""

from __future__ import annotations

import time

import numpy as np

from pipeline.config import AnalysisConfig
from pipeline.context import Context
from pipeline.events import MethodTimed
from pipeline.forecast import forecast_passes
from pipeline.methods import float_passes
from pipeline.part_chunks import part_chunks
from pipeline.results import number, pack
from pipeline.workspace import Inputs
from sensitivity.cross_layer import CrossLayer, cross_layer
from sensitivity.estimate import Change, Unit
from sensitivity.loss import Loss


def run(context: Context, config: AnalysisConfig) -> bytes:
    """The matrix `[K, K]` and what its passes measured, of every candidate: sites in order, formats by bits."""
    (inputs, loss), candidates = context.workspace.analysed(config), context.workspace.candidates()
    changes, sites = candidates.changes(inputs.network), candidates.format_names(inputs.network)
    passes = float_passes("measured", inputs.network, candidates.count)
    context.event(forecast_passes(inputs, loss, passes, len(changes), context.machine.threads))
    matrix = _measured(context, inputs, changes, loss)
    facts = {"unit": Unit.DAMAGE.value, "samples": matrix.samples, "float_passes": passes, "note": ""}
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
            "matrix": matrix.matrix,
            "score/measured": matrix.measured,
            "stderr/measured": matrix.measured_stderr,
            "score/cross_layer": matrix.damage,
            "stderr/cross_layer": matrix.damage_stderr,
        },
    )


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

"""Cross-layer: one pass for each candidate gives its measured damage, and the matrix of all interactions.

Needs nothing but ONNX Runtime, so that any graph can be planned. The passes of one site are one chunk.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from pipeline.candidates import Rounded
from pipeline.changes import changes_of, counted, sites_of
from pipeline.forecast import forecast_passes
from pipeline.methods import float_passes
from pipeline.results import number, pack, unpack
from pipeline.stage import StageContext
from pipeline.workspace import Inputs
from sensitivity.cross_layer import CrossLayer, cross_layer
from sensitivity.estimate import Change, Unit


def run(context: StageContext) -> bytes:
    """The matrix `[K, K]` and what its passes measured, of every candidate: sites in order, formats by bits."""
    inputs = Inputs.read(context)
    rounded = Rounded.unpack(context.read("calibrate"))
    changes, sites = changes_of(inputs.network, rounded), sites_of(inputs.network, rounded)
    passes = float_passes("measured", inputs.network, counted(rounded))
    expected = forecast_passes(inputs, passes, len(changes), context.threads)
    context.estimate(expected.seconds, expected.memory_bytes)
    matrix, seconds = _measured(context, inputs, changes)
    facts = {
        "unit": Unit.DAMAGE.value,
        "samples": matrix.samples,
        "seconds": seconds,
        "float_passes": passes,
        "note": "",
    }
    return pack(
        {
            "loss": inputs.loss.value,
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


def _measured(context: StageContext, inputs: Inputs, changes: tuple[Change, ...]) -> tuple[CrossLayer, float]:
    """The matrix, and the seconds that its chunks took, in whatever attempt."""
    seconds = 0.0

    def checkpoint(name: str, compute: Callable[[], NDArray[np.float32]]) -> NDArray[np.float32]:
        nonlocal seconds

        def timed() -> bytes:
            started = time.perf_counter()
            rows = compute()
            return pack({"seconds": time.perf_counter() - started}, {"rows": rows})

        document, arrays = unpack(context.chunk(name, timed))
        seconds += document["seconds"]
        return np.asarray(arrays["rows"], dtype=np.float32)

    matrix = cross_layer(
        inputs.network,
        changes,
        inputs.take(inputs.sensitivity_samples),
        inputs.loss,
        threads=context.threads,
        generator=np.random.default_rng(context.request["seed"]),
        batch=inputs.batch,
        group=inputs.group,
        checkpoint=checkpoint,
        check=context.progress,
    )
    return matrix, seconds

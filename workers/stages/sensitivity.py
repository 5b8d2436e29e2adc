"""Sensitivity: HAWQ-V2 traces of every site, and the cross-layer matrix of all candidates."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from network.execution import TorchNetwork
from quantization.weights import QuantizedWeight
from sensitivity.cross_layer import CrossLayer, cross_layer
from sensitivity.estimate import WeightChange
from sensitivity.omega import omega
from sensitivity.traces import TraceRule, Traces, hessian_traces
from workers.stage import StageContext
from workers.stages.candidates import Candidates, unpack_candidates
from workers.stages.inputs import Inputs
from workers.stages.payload import pack, unpack

TRACE_RULE = TraceRule(rtol=0.1, min_probes=8, max_probes=64)
TRACE_SHARE = 0.2  # of the stage's time, for progress


def run(context: StageContext) -> bytes:
    """Arrays with one entry per candidate (sites in order, formats by bits): matrix, damages, traces."""
    inputs = Inputs.read(context)
    candidates = unpack_candidates(context.read("calibrate"))
    traces = _checkpointed_traces(context, inputs)
    matrix = _cross_layer(context, inputs, candidates)
    errors = np.array(
        [
            _squared_error(inputs.network.weight(site.weight), weight)
            for site in inputs.network.sites
            for weight in candidates[site.name]
        ]
    )
    counts = [len(candidates[site.name]) for site in inputs.network.sites]
    scores, scores_stderr = omega(np.repeat(traces["mean"], counts), errors, np.repeat(traces["stderr"], counts))
    return pack(
        {
            "loss": inputs.loss.value,
            "samples": matrix.samples,
            "probes": int(traces["probes"]),
            "probe_batch": int(traces["batch"]),
            "trace_status": str(traces["status"]),
            "sites": [site.name for site in inputs.network.sites],
            "formats": [[weight.format.name for weight in candidates[site.name]] for site in inputs.network.sites],
        },
        {
            "matrix": matrix.matrix,
            "damage_stderr": matrix.damage_stderr,
            "measured": matrix.measured,
            "measured_stderr": matrix.measured_stderr,
            "trace_mean": traces["mean"],
            "trace_stderr": traces["stderr"],
            "squared_error": errors,
            "omega": scores,
            "omega_stderr": scores_stderr,
        },
    )


def _squared_error(weight: NDArray[np.float32], rounded: QuantizedWeight) -> float:
    return float(np.square(rounded.dequantize().astype(np.float64) - weight).sum())


def _checkpointed_traces(context: StageContext, inputs: Inputs) -> dict[str, Any]:
    def compute() -> bytes:
        found: Traces = hessian_traces(
            TorchNetwork(inputs.network),
            {site.name: site.weight for site in inputs.network.sites},
            inputs.take(inputs.sensitivity_samples),
            inputs.loss,
            torch.Generator().manual_seed(context.request["seed"]),
            TRACE_RULE,
            batch=inputs.backward_batch,
            check=lambda fraction: context.progress(TRACE_SHARE * fraction),
        )
        document = {"probes": found.probes, "batch": found.batch, "status": found.status.value}
        return pack(document, {"mean": found.trace_mean, "stderr": found.trace_stderr})

    document, arrays = unpack(context.chunk("traces", compute))
    return {**document, **arrays}


def _cross_layer(context: StageContext, inputs: Inputs, candidates: Candidates) -> CrossLayer:
    def checkpoint(name: str, compute: Any) -> NDArray[np.float32]:
        blob = context.chunk(f"cross_layer/{name}", lambda: pack({}, {"rows": compute()}))
        return np.asarray(unpack(blob)[1]["rows"], dtype=np.float32)

    changes = [
        WeightChange(site.name, weight.format.name, site.weight, weight.dequantize)
        for site in inputs.network.sites
        for weight in candidates[site.name]
    ]
    return cross_layer(
        inputs.network,
        changes,
        inputs.take(inputs.sensitivity_samples),
        inputs.loss,
        threads=context.threads,
        generator=np.random.default_rng(context.request["seed"]),
        batch=inputs.batch,
        group=inputs.group,
        checkpoint=checkpoint,
        check=lambda fraction: context.progress(TRACE_SHARE + (1 - TRACE_SHARE) * fraction),
    )

"""Certify: the chosen plan exported, and compared with the float network on samples that took no part in choosing it.

A plan that misses the budget there gives way to the next safer one, the last of at most `MOST_LOOKS` being the safest
of the frontier. Every look at the held-out samples is counted, and the interval of the certificate is widened for all
of them. A plan that the request brings is the only one to look at. The file that is delivered is read back
(`pipeline.file_check`).
"""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
from numpy.typing import NDArray

from evaluation.certificate import Certificate, certify
from evaluation.latency import Timed
from evaluation.metrics import DropKind, Measurement, Metric
from network.normalise import dump
from pipeline.allowed_formats import halves_of
from pipeline.candidates import Rounded, pack_weights
from pipeline.file_check import audited
from pipeline.given_plan import brings_plan
from pipeline.latency_table import LatencyTable, latency_sample, products_of
from pipeline.plan_evaluation import Comparison, Exported, exported
from pipeline.results import pack, unpack
from pipeline.search_space import planning_problem
from pipeline.stage import StageContext
from pipeline.stages.plan import MOST_LOOKS
from pipeline.timing import Timing
from pipeline.workspace import Inputs, opset_of
from planner.problem import Plan, Problem
from quantization.export.export import stored_weights

# of each file: whole networks are timed longer than layers
TIMED_SECONDS = 2.0


def run(context: StageContext) -> bytes:
    """The certificate, the exported file of the plan that it is about, and why weights were not rounded anew for it."""
    inputs = Inputs.read(context, opset_of(context.request))
    resolved, _ = unpack(context.read("resolve"))
    rounded = Rounded.unpack(context.read("calibrate"))
    latency = LatencyTable.read(context)
    halves = halves_of(context.request, inputs.network)
    problem = planning_problem(inputs.network, resolved["allowed"], None, "", latency, halves)
    budget = context.request["budget"]
    compare = Comparison(context, inputs, inputs.splits.held_out, Metric(resolved["metric"]))
    looks: list[tuple[list[int], Measurement, Exported]] = []
    for choices in _to_certify(context, problem):
        model = exported(context, inputs, rounded, problem, Plan(tuple(choices)))
        looks.append((choices, compare(model.file), model))
        if _certificate(context, inputs, looks[-1][1], len(looks)).met:
            break
        context.progress(len(looks) / MOST_LOOKS)
    # The last look is the one that met the budget; without one, the least drop is the best effort.
    kind = DropKind(budget["kind"])
    met = _certificate(context, inputs, looks[-1][1], len(looks)).met
    choices, measurement, model = looks[-1] if met else min(looks, key=lambda look: look[1].drop(kind))
    certificate = _certificate(context, inputs, measurement, len(looks))
    timed = latency is not None and latency.measured
    formats = problem.formats(Plan(tuple(choices)))
    of_weights = {site.weight: formats[site.name] for site in inputs.network.sites}
    document = {
        "choices": choices,
        "audit": audited(context, inputs, model, of_weights),
        "certificate": asdict(certificate),
        "latency": _timed(context, inputs, model.file) if timed else None,
        "kept": {site.name: model.kept[site.weight] for site in inputs.network.sites if site.weight in model.kept},
    }
    products = products_of(context.request)
    stored = stored_weights(model.network, model.weights, model.activations, products=products)
    weights = pack_weights(inputs.network, stored, model.notes)
    return pack(document, {"model": _bytes(model.file), "weights": _bytes(weights)})


def _bytes(blob: bytes) -> NDArray[np.uint8]:
    return np.frombuffer(blob, dtype=np.uint8)


def _to_certify(context: StageContext, problem: Problem) -> list[list[int]]:
    """The plans to look at, the chosen one first: for each site the index of its candidate."""
    if brings_plan(context.request):
        return [[0] * len(problem.sites)]  # one format is allowed to each site
    found, _ = unpack(context.read("plan"))
    return [list(choices) for choices in found["to_certify"]]


def _timed(context: StageContext, inputs: Inputs, model: bytes) -> dict[str, dict[str, float]]:
    """The float network and the exported file in turns, on the sample that the layers were timed with."""
    sample = latency_sample(inputs)
    timed = [Timed(dump(inputs.network), sample), Timed(model, sample)]
    floats, quantized = Timing(context).measured(timed, TIMED_SECONDS)
    return {"float": asdict(floats), "quantized": asdict(quantized)}


def _certificate(context: StageContext, inputs: Inputs, measurement: Measurement, looks: int) -> Certificate:
    budget = context.request["budget"]
    return certify(
        measurement,
        budget["max_drop"],
        kind=budget["kind"],
        confidence=budget["confidence"],
        looks=looks,
        seed=int(context.request["seed"]),
        synthetic=inputs.synthetic,
    )

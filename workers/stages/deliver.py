"""Deliver: what the stages found, as the files that a user downloads. Nothing is computed here."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from planner.problem import Plan, Problem, Quantity
from quantization.formats import IntegerFormat
from workers.stage import Delivery, StageContext
from workers.stages.analysis import Analysis, Scores
from workers.stages.candidates import rounding_methods
from workers.stages.inputs import Inputs
from workers.stages.latency_table import LatencyTable
from workers.stages.methods import scores_of
from workers.stages.payload import unpack
from workers.stages.problem import planning_problem
from workers.stages.reach import unmeasured_sites

PLAN_VERSION = 1
UNMEASURED = "the first output does not depend on it, so nothing measures its damage: the widest format allowed"
NOTHING_FASTER = "no format that the request allows is faster than another: latency does not tell plans apart"


def deliver(context: StageContext) -> Delivery:
    """Plan, frontier, sensitivity and model, and the summary of the job."""
    inputs = Inputs.read(context)
    resolved, _ = unpack(context.read("resolve"))
    found, _ = unpack(context.read("plan"))
    certified, arrays = unpack(context.read("certify"))
    analysis = Analysis.read(context)
    method = context.request["sensitivity"]["method"]
    latency = LatencyTable.read(context)
    problem = planning_problem(inputs.network, resolved["allowed"], analysis, method, latency)
    plan = Plan(tuple(certified["choices"]))
    model = arrays["model"].tobytes()
    outcome = _outcome(certified["certificate"], found)
    document = {
        "version": PLAN_VERSION,
        "outcome": outcome,
        "reason": _reason(outcome, certified["certificate"], found),
        "model_sha256": context.request["model_id"],
        "dataset_sha256": context.request["dataset_id"],
        "request": dict(sorted(context.request.items())),
        "float_size_bytes": context.model_path.stat().st_size,
        "size_bytes": len(model),
        "bit_operations": int(problem.total(Quantity.BIT_OPERATIONS, plan)),
        "latency": None if latency is None else _latency(latency, problem, plan, certified["latency"]),
        "predicted_damage": problem.total(Quantity.DAMAGE, plan),
        "certificate": certified["certificate"],
        "search": found["search"],
        "sensitivity": _compared(analysis, method, timed=False),
        "layers": _layers(
            inputs, problem, plan, analysis.scores, analysis.stderr(method), rounding_methods(context.read("calibrate"))
        ),
    }
    summary = {
        key: document[key] for key in ("outcome", "reason", "float_size_bytes", "size_bytes", "predicted_damage")
    } | {"certificate": certified["certificate"], "evaluations": len(found["search"]["evaluated"])}
    return Delivery(
        outcome=outcome,
        summary=summary,
        artifacts={
            "plan": _json(document),
            "frontier": _json(found["frontier"]),
            "sensitivity": _json(_sensitivity(analysis, method)),
            "model": model,
        },
    )


def _outcome(certificate: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    if certificate["met"]:
        return "met"
    return "deadline" if found["search"]["status"] == "deadline" else "not_met"


def _reason(outcome: str, certificate: Mapping[str, Any], found: Mapping[str, Any]) -> str | None:
    """Why the budget was not met, by how much, and what can be reached."""
    if outcome == "met":
        return None
    measured = certificate["drop"] if certificate["confidence"] is None else certificate["high"]
    least = found["search"]["least_drop"]
    ended = "the deadline ended the search; " if outcome == "deadline" else ""
    return (
        f"{ended}the best plan found misses the budget by {measured - certificate['max_drop']:.4f} on the held-out "
        f"samples ({certificate['metric']} drop {measured:.4f}, allowed {certificate['max_drop']:g}); the smallest "
        f"drop that any evaluated plan reached on the search samples is {least:.4f}. Allow more bits or a larger "
        "drop, or send more samples"
    )


def _latency(
    table: LatencyTable, problem: Problem, plan: Plan, measured: Mapping[str, Mapping[str, float]] | None
) -> dict[str, Any]:
    """What the table predicts of the plan, and how far that is from the exported file's own time."""
    predicted = problem.total(Quantity.LATENCY, plan)
    document = {
        "predicted_ms": predicted,
        "base_ms": problem.base(Quantity.LATENCY),
        **{key: table.document[key] for key in ("source", "machine", "threads", "samples") if key in table.document},
    }
    if measured is not None:
        difference = measured["quantized"]["median_ms"] - predicted
        document |= {"measured": measured, "difference_ms": difference}
    values, same = problem.values(Quantity.LATENCY), problem.offsets[:-1]
    if not np.ptp(values - values[same][problem.site_of]):
        document["note"] = NOTHING_FASTER
    return document


def _layers(
    inputs: Inputs,
    problem: Problem,
    plan: Plan,
    scores: Scores,
    stderr: NDArray[np.float64],
    rounding: Mapping[str, str],
) -> list[dict[str, Any]]:
    unmeasured = unmeasured_sites(inputs.network)
    layers = []
    for index, (site, planned, choice) in enumerate(
        zip(inputs.network.sites, problem.sites, plan.choices, strict=True)
    ):
        candidate = planned.candidates[choice]
        row = scores.index(site.name, candidate.format) if isinstance(candidate.format, IntegerFormat) else None
        layers.append(
            {
                "name": site.name,
                "op_type": site.layers[0].op_type,
                "weight": site.weight,
                "nodes": [layer.name for layer in site.layers],
                "shape": list(site.shape),
                "weights": site.size,
                "format": candidate.format.name,
                "bits": candidate.format.bits,
                "bytes": candidate.size_bytes,
                "bit_operations": candidate.bit_operations,
                "latency_ms": candidate.latency_ms,
                "damage": candidate.damage,
                "damage_stderr": None if row is None else float(stderr[row]),
                "trace_mean": _number(scores.arrays["trace_mean"][index]),
                "trace_stderr": _number(scores.arrays["trace_stderr"][index]),
                "rounding": None if row is None else rounding[site.name],
                "note": UNMEASURED if site.name in unmeasured else None,
            }
        )
    return layers


def _sensitivity(analysis: Analysis, asked: str) -> dict[str, Any]:
    """Every candidate's score by each method, with standard errors, the traces, and which method agrees best."""
    arrays, document = analysis.scores.arrays, analysis.scores.document
    sites = []
    row = 0
    for index, (site, formats) in enumerate(zip(document["sites"], document["formats"], strict=True)):
        candidates = []
        for format_ in formats:
            scores = {
                name: _scored(arrays[f"score/{name}"][row], arrays[f"stderr/{name}"][row])
                for name in document["methods"]
            }
            candidates.append(
                {"format": format_, "squared_error": float(arrays["squared_error"][row]), "scores": scores}
            )
            row += 1
        trace = _scored(arrays["trace_mean"][index], arrays["trace_stderr"][index])
        sites.append({"name": site, "trace_mean": trace, "candidates": candidates})
    return {
        "loss": document["loss"],
        "samples": document["samples"],
        **_compared(analysis, asked, timed=True),
        "unavailable": document["unavailable"],
        "traces": document["traces"],
        "sites": sites,
        "interactions": {
            "candidates": [
                f"{site}:{format_}"
                for site, formats in zip(document["sites"], document["formats"], strict=True)
                for format_ in formats
            ],
            "matrix": [[float(f"{value:.6g}") for value in line] for line in arrays["matrix"]],
        },
    }


def _compared(analysis: Analysis, asked: str, *, timed: bool) -> dict[str, Any]:
    """The method in use, and how every method's predictions agree with the random plans that were measured.

    What a method took is given in float passes, the same on every machine; in the sensitivity also in seconds. (The
    plan holds no clock: the same input gives the same plan, to the byte.)
    """
    agreement, took = analysis.agreement, analysis.scores.document["methods"]
    methods = []
    for one in agreement["methods"]:
        facts = took[scores_of(one["method"])]
        names = (
            "samples",
            "float_passes",
            "unit",
            *(["seconds"] if timed else []),
            *(["note"] if facts["note"] else []),
        )
        methods.append({**one, **{name: facts[name] for name in names}})
    shared = {key: agreement[key] for key in ("plans", "samples", "lambda", "saturation", "note")}
    return {"method": analysis.method(asked), "agreement": {**shared, "methods": methods}}


def _scored(score: float, stderr: float) -> dict[str, float | None]:
    return {"score": _number(score), "stderr": _number(stderr)}


def _number(value: float) -> float | None:
    """JSON has no NaN and no infinity: a method that does not cover a candidate says nothing."""
    return float(value) if math.isfinite(value) else None


def _json(document: Mapping[str, Any] | Sequence[Any]) -> bytes:
    """The same content gives the same bytes. The order of keys is the order of columns in the table of layers."""
    return json.dumps(document, indent=1, allow_nan=False).encode()

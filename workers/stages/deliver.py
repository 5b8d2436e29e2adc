"""Deliver: what the stages found, as the files that a user downloads. Nothing is computed here."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from planner.problem import Plan, Problem, Quantity
from quantization.formats import IntegerFormat
from workers.stage import Delivery, StageContext
from workers.stages.candidates import rounding_methods
from workers.stages.inputs import Inputs
from workers.stages.payload import unpack
from workers.stages.problem import Analysis, planning_problem
from workers.stages.reach import unmeasured_sites

PLAN_VERSION = 1
UNMEASURED = "the first output does not depend on it, so nothing measures its damage: the widest format allowed"


def deliver(context: StageContext) -> Delivery:
    """Plan, frontier, sensitivity and model, and the summary of the job."""
    inputs = Inputs.read(context)
    resolved, _ = unpack(context.read("resolve"))
    found, _ = unpack(context.read("plan"))
    certified, arrays = unpack(context.read("certify"))
    analysis = Analysis.read(context)
    problem = planning_problem(inputs.network, resolved["allowed"], analysis, context.request["sensitivity"]["method"])
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
        "predicted_damage": problem.total(Quantity.DAMAGE, plan),
        "certificate": certified["certificate"],
        "search": found["search"],
        "layers": _layers(inputs, problem, plan, analysis, rounding_methods(context.read("calibrate"))),
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
            "sensitivity": _json(_sensitivity(analysis)),
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


def _layers(
    inputs: Inputs, problem: Problem, plan: Plan, analysis: Analysis, methods: Mapping[str, str]
) -> list[dict[str, Any]]:
    unmeasured = unmeasured_sites(inputs.network)
    layers = []
    for index, (site, planned, choice) in enumerate(
        zip(inputs.network.sites, problem.sites, plan.choices, strict=True)
    ):
        candidate = planned.candidates[choice]
        row = analysis.index(site.name, candidate.format) if isinstance(candidate.format, IntegerFormat) else None
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
                "damage": candidate.damage,
                "damage_stderr": None if row is None else float(analysis.arrays["damage_stderr"][row]),
                "trace_mean": float(analysis.arrays["trace_mean"][index]),
                "trace_stderr": float(analysis.arrays["trace_stderr"][index]),
                "rounding": None if row is None else methods[site.name],
                "note": UNMEASURED if site.name in unmeasured else None,
            }
        )
    return layers


def _sensitivity(analysis: Analysis) -> dict[str, Any]:
    """Every candidate's score by each method, with standard errors, and the traces."""
    arrays, document = analysis.arrays, analysis.document
    sites = []
    row = 0
    for index, (site, formats) in enumerate(zip(document["sites"], document["formats"], strict=True)):
        candidates = []
        for format_ in formats:
            candidates.append(
                {
                    "format": format_,
                    "squared_error": float(arrays["squared_error"][row]),
                    "scores": {
                        "cross_layer": _scored(arrays["matrix"][row, row], arrays["damage_stderr"][row]),
                        "measured_kl" if document["loss"] != "squared_error" else "measured_squared_error": _scored(
                            arrays["measured"][row], arrays["measured_stderr"][row]
                        ),
                        "hawq_v2": _scored(arrays["omega"][row], arrays["omega_stderr"][row]),
                    },
                }
            )
            row += 1
        trace = _scored(arrays["trace_mean"][index], arrays["trace_stderr"][index])
        sites.append({"name": site, "trace_mean": trace, "candidates": candidates})
    return {
        "loss": document["loss"],
        "samples": document["samples"],
        "traces": {key: document[key] for key in ("probes", "probe_batch", "trace_status")},
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


def _scored(score: float, stderr: float) -> dict[str, float]:
    return {"score": float(score), "stderr": float(stderr)}


def _json(document: Mapping[str, Any] | Sequence[Any]) -> bytes:
    """The same content gives the same bytes. The order of keys is the order of columns in the table of layers."""
    return json.dumps(document, indent=1, allow_nan=False).encode()

"""Deliver: what the stages found, as the files that a user downloads. Nothing is computed here."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from planner.problem import Plan, Quantity, whole_steps
from workers.stage import Delivery, StageContext
from workers.stages.analysis import Analysis
from workers.stages.candidates import Rounded, rounding_methods
from workers.stages.chosen import ChosenPlan, activations_of, layers_of
from workers.stages.comparison import compared, sensitivity_of
from workers.stages.coupling import Coupling
from workers.stages.inputs import Inputs
from workers.stages.latency_table import LatencyTable
from workers.stages.payload import unpack
from workers.stages.problem import planning_problem

PLAN_VERSION = 1
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
    calibrated = context.read("calibrate")
    coupling = Coupling(inputs.network, resolved["allowed"], latency)
    chosen = ChosenPlan(inputs.network, problem, plan, analysis.scores, analysis.stderr(method), coupling)
    layers = layers_of(chosen, rounding_methods(calibrated))
    document = {
        "version": PLAN_VERSION,
        "outcome": outcome,
        "reason": _reason(outcome, certified["certificate"], found),
        "model_sha256": context.request["model_id"],
        "dataset_sha256": context.request["dataset_id"],
        "request": dict(sorted(context.request.items())),
        "float_size_bytes": context.model_path.stat().st_size,
        "size_bytes": len(model),
        "bit_operations": sum(layer["bit_operations"] for layer in layers),
        "latency": None if latency is None else _latency(latency, coupling, layers, certified["latency"]),
        "predicted_damage": problem.total(Quantity.DAMAGE, plan),
        "certificate": certified["certificate"],
        "search": found["search"],
        "sensitivity": compared(analysis, method, timed=False),
        "layers": layers,
        "activations": activations_of(chosen, Rounded.unpack(calibrated)),
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
            "sensitivity": _json(sensitivity_of(analysis, method)),
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
    table: LatencyTable,
    coupling: Coupling,
    layers: Sequence[Mapping[str, Any]],
    measured: Mapping[str, Mapping[str, float]] | None,
) -> dict[str, Any]:
    """What the table predicts of the plan, and how far that is from the exported file's own time."""
    base = whole_steps(table.base_ms)
    predicted = base + sum(layer["latency_ms"] for layer in layers)
    document = {
        "predicted_ms": predicted,
        "base_ms": base,
        **{key: table.document[key] for key in ("source", "machine", "threads", "samples") if key in table.document},
    }
    if measured is not None:
        difference = measured["quantized"]["median_ms"] - predicted
        document |= {"measured": measured, "difference_ms": difference}
    if coupling.one_latency():
        document["note"] = NOTHING_FASTER
    return document


def _json(document: Mapping[str, Any] | Sequence[Any]) -> bytes:
    """The same content gives the same bytes. The order of keys is the order of columns in the table of layers."""
    return json.dumps(document, indent=1, allow_nan=False).encode()

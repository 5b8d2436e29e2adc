"""Deliver: what the stages found, as the files that a user downloads. Nothing is computed here."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.schemas.plan import PLAN_VERSION
from pipeline.allowed_formats import halves_of
from pipeline.analysis import Analysis
from pipeline.candidates import Rounded, rounding_methods
from pipeline.comparison import compared, sensitivity_of
from pipeline.coupling import Coupling
from pipeline.foreign_plans import UploadedTensors, aimet_encodings, tensor_overrides
from pipeline.given_plan import brings_plan
from pipeline.latency_table import LatencyTable
from pipeline.plan_evaluation import quantized_activations
from pipeline.report import ChosenPlan, Rounding, activations_of, layers_of
from pipeline.results import unpack
from pipeline.search_space import planning_problem
from pipeline.stage import Delivery, StageContext
from pipeline.workspace import Inputs, opset_of
from planner.problem import Plan, Quantity, whole_steps

NOTHING_FASTER = "no format that the request allows is faster than another: latency does not tell plans apart"


@dataclass(frozen=True)
class _Search:
    """What a search leaves behind, beside the plan."""

    found: Mapping[str, Any]
    analysis: Analysis
    method: str

    @classmethod
    def read(cls, context: StageContext) -> _Search | None:
        """From its stages; None for a job that applied a plan."""
        if brings_plan(context.request):
            return None
        found, _ = unpack(context.read("plan"))
        return cls(found, Analysis.read(context), context.request["sensitivity"]["method"])

    def artifacts(self) -> dict[str, bytes]:
        sensitivity = sensitivity_of(self.analysis, self.method)
        return {"frontier": _json(self.found["frontier"]), "sensitivity": _json(sensitivity)}


def deliver(context: StageContext) -> Delivery:
    """The plan in its forms, the model, the summary of the job, and of a search its frontier and its sensitivity."""
    inputs = Inputs.read(context, opset_of(context.request))
    certified, arrays = unpack(context.read("certify"))
    search = _Search.read(context)
    calibrated = context.read("calibrate")
    rounded = Rounded.unpack(calibrated)
    chosen = _chosen(context, inputs, search, Plan(tuple(certified["choices"])))
    model = arrays["model"].tobytes()
    certificate = certified["certificate"]
    outcome = _outcome(certificate, search)
    anew = arrays["weights"].tobytes()
    rounding = Rounding(rounding_methods(calibrated), rounding_methods(anew), certified["kept"])
    layers = layers_of(chosen, rounded, rounding)
    document = {
        "version": PLAN_VERSION,
        "outcome": outcome,
        "reason": _reason(outcome, certificate, search),
        "model_sha256": context.request["model_id"],
        "dataset_sha256": context.request["dataset_id"],
        "request": dict(sorted(context.request.items())),
        "float_size_bytes": context.model_path.stat().st_size,
        "size_bytes": len(model),
        "bit_operations": sum(layer["bit_operations"] for layer in layers),
        "latency": _latency(LatencyTable.read(context), chosen.coupling, layers, certified["latency"]),
        "predicted_damage": None if search is None else chosen.problem.total(Quantity.DAMAGE, chosen.plan),
        "certificate": certificate,
        "audit": certified["audit"],
        "search": None if search is None else search.found["search"],
        "sensitivity": None if search is None else compared(search.analysis, search.method, timed=False),
        "layers": layers,
        "activations": activations_of(chosen, rounded),
    }
    summary = {
        key: document[key] for key in ("outcome", "reason", "float_size_bytes", "size_bytes", "predicted_damage")
    } | {"certificate": certificate, "evaluations": 0 if search is None else len(search.found["search"]["evaluated"])}
    of_sites = Rounded.unpack(anew).weights
    weights = {site.weight: one for site in inputs.network.sites for one in of_sites.get(site.name, ())}
    activations = quantized_activations(rounded, chosen.problem, chosen.plan)
    uploaded = UploadedTensors.read(context.model_path)
    artifacts = {
        "plan": _json(document),
        "model": model,
        "ort": _json(tensor_overrides(inputs.network, document, weights, activations, uploaded)),
        "aimet": _json(aimet_encodings(inputs.network, document, weights, activations, uploaded)),
    }
    return Delivery(outcome, summary, artifacts if search is None else artifacts | search.artifacts())


def _chosen(context: StageContext, inputs: Inputs, search: _Search | None, plan: Plan) -> ChosenPlan:
    resolved, _ = unpack(context.read("resolve"))
    latency = LatencyTable.read(context)
    coupling = Coupling(inputs.network, resolved["allowed"], latency)
    halves = halves_of(context.request, inputs.network)
    if search is None:
        problem = planning_problem(inputs.network, resolved["allowed"], None, "", latency, halves)
        return ChosenPlan(inputs.network, problem, plan, None, None, coupling)
    analysis, method = search.analysis, search.method
    problem = planning_problem(inputs.network, resolved["allowed"], analysis, method, latency, halves)
    return ChosenPlan(inputs.network, problem, plan, analysis.scores, analysis.stderr(method), coupling)


def _outcome(certificate: Mapping[str, Any], search: _Search | None) -> str:
    if certificate["met"]:
        return "met"
    return "deadline" if search is not None and search.found["search"]["status"] == "deadline" else "not_met"


def _reason(outcome: str, certificate: Mapping[str, Any], search: _Search | None) -> str | None:
    """Why the budget was not met, by how much, and what can be reached."""
    if outcome == "met":
        return None
    measured = certificate["drop"] if certificate["confidence"] is None else certificate["high"]
    missed = (
        f"misses the budget by {measured - certificate['max_drop']:.4f} on the held-out samples "
        f"({certificate['metric']} drop {measured:.4f}, allowed {certificate['max_drop']:g})"
    )
    if search is None:
        return (
            f"the plan that was applied {missed}. Give layers wider formats or allow a larger drop, or leave the plan "
            "out to search for another"
        )
    least = search.found["search"]["least_drop"]
    ended = "the deadline ended the search; " if outcome == "deadline" else ""
    return (
        f"{ended}the best plan found {missed}; the smallest drop that any evaluated plan reached on the search samples "
        f"is {least:.4f}. Allow more bits or a larger drop, or send more samples"
    )


def _latency(
    table: LatencyTable | None,
    coupling: Coupling,
    layers: Sequence[Mapping[str, Any]],
    measured: Mapping[str, Mapping[str, float]] | None,
) -> dict[str, Any] | None:
    """What the table predicts of the plan, and how far that is from the exported file's own time; None without one."""
    if table is None:
        return None
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

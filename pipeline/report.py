"""The report of a job: what the stages found, as the files that a user downloads. Nothing is computed here."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

from app.schemas.plan import PLAN_VERSION
from network.errors import listing
from network.faithful import undone
from pipeline.candidates import Candidates
from pipeline.config import ReportConfig
from pipeline.context import Context
from pipeline.foreign_plans import UploadedTensors, aimet_encodings, tensor_overrides
from pipeline.output_rows import output_rows
from pipeline.plan_rows import PlanFacts, Search, activation_rows, layer_rows
from pipeline.results import Archive, number, unpack
from pipeline.search_space import SearchSpace
from pipeline.sensitivity_report import MatrixLine, compared, sensitivity_of
from pipeline.stage import JobResult
from pipeline.stays_float import stays_float, stays_quantized
from planner.problem import Plan, Quantity, whole_steps

WORTH_SAYING = 0.01
FLOAT_BITS = 32
_NAMED = 5
NOTHING_FASTER = "no format that the request allows is faster than another: latency does not tell plans apart"


def report(context: Context, config: ReportConfig) -> JobResult:
    """The plan in its forms, the model, the summary of the job, and of a search its frontier and its sensitivity."""
    arrays = Archive(context.open("certify"))
    certified = arrays.document
    space, search = context.workspace.space(config.space), _search(context, config.method)
    if search is not None:
        space = space.damaged(search.analysis, search.method)
    facts = PlanFacts(space, Plan(tuple(certified["choices"])), search)
    candidates, delivered = context.workspace.candidates(), Candidates.read(io.BytesIO(arrays["weights"].data))
    model = arrays["model"].tobytes()
    unreached = context.workspace.resolved()["unreached"]
    left, other = stays_float(space.network, _quantized(facts), space.allowed, unreached), _undone(context)
    codes = stays_quantized(space.network)
    layers = layer_rows(facts, candidates, delivered, certified["kept"])
    certificate = dict(certified["certificate"])
    stored = {row["name"] for row in layers if row["bits"] < FLOAT_BITS}
    partly = {name: note for name, note in candidates.notes.items() if name in stored}
    said = _beside(left, codes, unreached, partly, other)
    certificate["statement"] = " ".join([certificate["statement"], *said])
    outcome = _outcome(certificate, search)
    document = {
        "version": PLAN_VERSION,
        "outcome": outcome,
        "reason": _reason(outcome, certificate, search),
        "model_sha256": context.keys["model"],
        "dataset_sha256": context.keys["dataset"] or None,
        "request": dict(sorted(config.request.items())),
        "float_size_bytes": context.model_path.stat().st_size,
        "size_bytes": len(model),
        "bit_operations": sum(layer["bit_operations"] for layer in layers),
        "latency": _latency(space, layers, certified["latency"]),
        "load": _load(space, facts.plan, certified["load"]),
        "predicted_damage": None
        if search is None
        else space.predicted_damage(search.analysis, search.method, facts.plan),
        "stays_float": left,
        "stays_quantized": codes,
        "unreached": unreached,
        "undone": other,
        "outputs": output_rows(context, config.damage),
        "certificate": certificate,
        "processor": certified["processor"],
        "audit": certified["audit"],
        "search": None if search is None else search.document["search"],
        "sensitivity": None if search is None else compared(search.analysis, search.method),
        "layers": layers,
        "activations": activation_rows(facts, candidates),
    }
    summary = {
        key: document[key] for key in ("outcome", "reason", "float_size_bytes", "size_bytes", "predicted_damage")
    } | {
        "certificate": certificate,
        "evaluations": 0 if search is None else len(search.document["search"]["evaluated"]),
    }
    artifacts = {
        "plan": _json(document),
        "model": model,
        "samples": arrays["samples"].tobytes(),
        **_foreign_plans(context, facts, document, delivered),
    }
    if search is not None:
        artifacts |= {
            "frontier": _json(search.document["frontier"]),
            "sensitivity": _json(
                sensitivity_of(search.analysis, search.method, space) | {"random_plans": _random_plans(context)}
            ),
        }
    return JobResult(outcome, summary, artifacts)


def _search(context: Context, method: str) -> Search | None:
    """What a search left behind; None for a job that applied a plan."""
    if not context.has("plan"):
        return None
    document, _ = unpack(context.read("plan"))
    return Search(document, context.workspace.analysis(), method)


def _foreign_plans(
    context: Context, facts: PlanFacts, document: Mapping[str, Any], delivered: Candidates
) -> dict[str, bytes]:
    """The plan as ONNX Runtime and AIMET take it."""
    network = facts.space.network
    weights = {site.weight: weight for site in network.sites for weight in delivered.weights.get(site.name, ())}
    activations = context.workspace.candidates().planned_activations(facts.space.problem.formats(facts.plan))
    uploaded = UploadedTensors.read(context.model_path)
    return {
        "ort": _json(tensor_overrides(network, document, weights, activations, uploaded)),
        "aimet": _json(aimet_encodings(network, weights, activations, uploaded)),
    }


def _beside(
    left: Mapping[str, Any],
    codes: Mapping[str, Any],
    unreached: Sequence[str],
    partly: Mapping[str, str],
    other: Mapping[str, Any] | None,
) -> list[str]:
    """What the statement of the certificate says besides: what stayed as it came, what no sample reached, of which
    weights no sample reached a part, and what was not rewritten."""
    said = []
    if left["share"] >= WORTH_SAYING:
        names = ", ".join(f"{tensor['name']} ({tensor['reason']})" for tensor in left["tensors"][:_NAMED])
        said.append(f"Of the bytes of its weights {left['share']:.0%} stay float: {names}.")
    if codes["bytes"]:
        names = listing([tensor["name"] for tensor in codes["tensors"]], _NAMED)
        said.append(f"Weights of {codes['bytes']:,} bytes came quantized and are kept as they are: {names}.")
    if unreached:
        said.append(
            f"No sample reached the weights {listing(unreached, _NAMED)}: nothing is measured of them, and they keep "
            "their widest format."
        )
    if partly:
        notes = [f"of {name} {note}" for name, note in partly.items()]
        said.append(f"Nothing is measured of what samples did not reach: {listing(notes, _NAMED)}.")
    if other is not None:
        said.append(f"It was analysed at opset {other['opset']}, because {other['why']}.")
    return said


def _quantized(facts: PlanFacts) -> set[str]:
    """The initializers that the plan stores in fewer bits than they came in."""
    formats = facts.space.problem.formats(facts.plan)
    return {site.weight for site in facts.space.network.sites if formats[site.name].bits < FLOAT_BITS}


def _undone(context: Context) -> dict[str, Any] | None:
    """How the network was analysed other than usual, because its outputs would have changed; None for as usual."""
    found = undone(context.workspace.network())
    return None if found is None else {"opset": found.opset, "folding": found.folding.name.lower(), "why": found.why}


def _outcome(certificate: Mapping[str, Any], search: Search | None) -> str:
    if certificate["met"]:
        return "met"
    return "deadline" if search is not None and search.document["search"]["status"] == "deadline" else "not_met"


def _reason(outcome: str, certificate: Mapping[str, Any], search: Search | None) -> str | None:
    """Why the budget was not met, by how much, and what can be reached."""
    if outcome == "met":
        return None
    measured = certificate["drop"] if certificate["confidence"] is None else certificate["high"]
    worst = max(certificate["claims"], key=lambda claim: claim["drop"] / (claim["max_drop"] or 1.0))
    of = "" if len(certificate["claims"]) == worst["parts"] == 1 else f" of {worst['part'] or worst['outputs'][0]}"
    if certificate["not_finite"]:
        return (
            f"the file gives NaN or infinity in {certificate['not_finite']:,} of {certificate['samples']:,} held-out "
            "samples, where the float network gives numbers; allow wider formats, or keep the layer before a "
            "logarithm, root or division as it is"
        )
    missed = (
        f"misses the budget by {measured - certificate['max_drop']:.4f} on the held-out samples "
        f"({certificate['metric']} drop{of} {measured:.4f}, allowed {certificate['max_drop']:g})"
    )
    if search is None:
        return (
            f"the plan that was applied {missed}. Give layers wider formats or allow a larger drop, or leave the plan "
            "out to search for another"
        )
    least = search.document["search"]["least_drop"]
    ended = "the deadline ended the search; " if outcome == "deadline" else ""
    return (
        f"{ended}the best plan found {missed}; the smallest drop that any evaluated plan reached on the search samples "
        f"is {least:.4f}. Allow more bits or a larger drop, or send more samples"
    )


def _latency(
    space: SearchSpace, layers: Sequence[Mapping[str, Any]], measured: Mapping[str, Mapping[str, float]] | None
) -> dict[str, Any] | None:
    """What the table predicts of the plan, and how far that is from the exported file's own time; None without one."""
    table = space.latency
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
    if space.coupling.one_latency():
        document["note"] = NOTHING_FASTER
    return document


def _load(space: SearchSpace, plan: Plan, measured: Mapping[str, Any] | None) -> dict[str, Any]:
    """What both files are predicted to take to load on the reference machine, and what was measured here, if it was."""
    return {
        "predicted_ms": space.problem.total(Quantity.LOAD, plan),
        "base_ms": space.problem.base(Quantity.LOAD),
        "float_ms": space.float_load_ms(),
        **(measured or {}),
    }


def _random_plans(context: Context) -> dict[str, Any]:
    """The damage of the random plans as it was measured, and as every method predicted it, in nats."""
    _, arrays = unpack(context.read("agreement"))
    damages = {name: [number(float(value)) for value in array] for name, array in arrays.items() if name != "plans"}
    prefix = "predicted/"
    return {
        "measured": damages.get("measured", []),
        "predicted": {name[len(prefix) :]: own for name, own in damages.items() if name.startswith(prefix)},
    }


def _json(document: Mapping[str, Any] | Sequence[Any]) -> bytes:
    """The same content gives the same bytes. The order of keys is the order of columns in the table of layers.

    Written piece by piece: the text of a matrix is some hundred megabytes where there are hundreds of sites.
    """
    encoder = json.JSONEncoder(indent=1, allow_nan=False, default=MatrixLine.numbers)
    text = io.BytesIO()
    for piece in encoder.iterencode(document):
        text.write(piece.encode())
    return text.getvalue()

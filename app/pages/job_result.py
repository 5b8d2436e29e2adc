"""What a job came to, as the page shows it: from its documents, which nothing here changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.schemas.headline import headline, loading, reason
from app.services.results import read_result
from app.store.engine import Sessions
from app.store.jobs import find_artifact
from app.store.tables import JobRow
from report.contents import CHARTS, DOCUMENTS, ChartFacts

SORTED_BY = (
    *("name", "op_type", "weights", "format", "bits", "input_bits", "bytes", "bit_operations", "load_ms", "sparsity"),
    "damage",
)
"""Columns of the layers, each of which they may be sorted by."""


@dataclass(frozen=True, slots=True)
class Download:
    """A file that a job gives; its size where it is stored as it is."""

    name: str
    address: str
    what: str
    size_bytes: int | None = None


_STORED = (
    ("model", "model.onnx", "model.onnx", "the quantized network"),
    ("plan", "plan.json", "plan", "the plan, with all that was measured"),
    ("frontier", "frontier.json", "frontier", "plans of which none beats another"),
    ("sensitivity", "sensitivity.json", "sensitivity", "what every format does to every layer"),
    ("ort", "ort.json", "plan?format=ort", "the plan for ONNX Runtime's quantizer"),
    ("aimet", "aimet.json", "plan?format=aimet", "the plan as encodings of AIMET"),
    ("certificate", "certificate.json", "certificate", "what was measured, and found in the file"),
)
_MADE = (
    ("report.html", "report.html", "all of this as one page that needs no service"),
    ("model-card.md", "model-card.md", "what to say where the network is published"),
    ("plan.csv", "plan?format=csv", "the layers as a table"),
    ("table.csv", "plan?format=table", "the widths as a table"),
)


def result_context(sessions: Sessions, job: JobRow, sort: str, down: bool) -> dict[str, Any]:
    """What the template shows of a job that made a plan.

    Args:
        sort: a member of `SORTED_BY`; anything else leaves the layers in the order of the network.
    """
    plan, searched = read_result(sessions, job.id, "plan"), job.request.get("plan") is None
    frontier = read_result(sessions, job.id, "frontier") if searched else {"points": [], "unit": ""}
    evaluated = (plan["search"] or {}).get("evaluated", ())
    return {
        "plan": plan,
        "headline": headline(plan),
        "reason": reason(plan),
        "loading": loading(plan),
        "evaluated": evaluated,
        "frontier": frontier,
        "layers": sorted_rows(plan["layers"], sort, down),
        "sort": sort,
        "down": down,
        "sorted_by": SORTED_BY,
        "downloads": downloads(sessions, job.id, plan=True),
        "charts": charts(sessions, job.id),
    }


def certificate_context(sessions: Sessions, job: JobRow, _sort: str, _down: bool) -> dict[str, Any]:
    """What the template shows of a job that certified a file."""
    certificate = read_result(sessions, job.id, "certificate")
    return {
        "certificate": certificate,
        "headline": headline(certificate),
        "downloads": downloads(sessions, job.id, plan=False),
        "charts": charts(sessions, job.id),
    }


def downloads(sessions: Sessions, job_id: str, *, plan: bool) -> list[Download]:
    """The files that the job gives."""
    base = f"/v1/jobs/{job_id}"
    with sessions.read() as session:
        stored = {kind: find_artifact(session, job_id, kind) for kind, *_ in _STORED}
    files = [
        Download(name, f"{base}/{address}", what, artifact[0].size_bytes)
        for kind, name, address, what in _STORED
        if (artifact := stored[kind]) is not None
    ]
    made = [Download(name, f"{base}/{address}", what) for name, address, what in _MADE if plan]
    return [*files, *made]


def charts(sessions: Sessions, job_id: str) -> dict[str, ChartFacts]:
    """The charts that can be drawn of what the job has, by name."""
    with sessions.read() as session:
        kinds = {kind for kind in DOCUMENTS if find_artifact(session, job_id, kind) is not None}
    if "samples" in kinds and not read_result(sessions, job_id, "samples")["samples"]:
        kinds.discard("samples")  # none loses anything
    return {name: facts for name, facts in CHARTS.items() if kinds.issuperset(facts.reads)}


def sorted_rows(rows: Sequence[Mapping[str, Any]], sort: str, down: bool) -> list[Mapping[str, Any]]:
    """The rows by one of their columns; what a row does not have comes last."""
    if sort not in SORTED_BY:
        return list(rows)
    known = [row for row in rows if row.get(sort) is not None]
    return [*sorted(known, key=lambda row: row[sort], reverse=down), *(row for row in rows if row.get(sort) is None)]

"""`/compare?job=A&job=B`: jobs side by side."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from app.api.reports import OF_IMAGES, Theme
from app.api.state import Service
from app.errors import AppError
from app.pages.amounts import drop_text
from app.pages.rendering import render
from app.renderer import Drawing, Source
from app.services import comparison
from app.services.comparison import Compared
from report.contents import COMPARISON

router = APIRouter(include_in_schema=False)


JobIds = Annotated[list[str] | None, Query(alias="job")]


@router.get("/compare", response_class=Response)
def compare_jobs(request: Request, service: Service, job_ids: JobIds = None) -> Response:
    """What was asked differently, what came of it, the frontiers, and the formats of the layers."""
    compared = comparison.compare(service.sessions, job_ids or [])
    return render(
        request,
        "compare.html",
        service,
        jobs=[_shown(job) for job in compared],
        differences=comparison.request_differences(compared),
        layers=comparison.layers(compared),
        has_frontier=comparison.frontiers(service.sessions, compared) is not None,
        chart="/compare/frontier.svg?" + urlencode([("job", job.row.id) for job in compared]),
    )


@router.get("/compare/frontier.svg", response_class=Response)
def compare_frontiers(service: Service, job_ids: JobIds = None, theme: Theme = Theme.LIGHT) -> Response:
    """The frontiers of the jobs in one chart."""
    compared = comparison.compare(service.sessions, job_ids or [])
    document = comparison.frontiers(service.sessions, compared)
    if document is None:
        raise AppError("artifact_missing", "none of the jobs has a frontier: only jobs that search for a plan have one")
    encoded = json.dumps(document).encode()
    tag = f"{theme}-{hashlib.sha256(encoded).hexdigest()}"
    drawing = Drawing(f"charts/{COMPARISON}.svg", {"compared": Source.of(encoded)}, theme, tag=tag)
    headers = {"Cache-Control": "private, no-cache", "Content-Security-Policy": OF_IMAGES}
    return Response(service.renderer(drawing, service.sessions.project_id), media_type="image/svg+xml", headers=headers)


def _shown(job: Compared) -> dict[str, Any]:
    """What the head of a column shows of a job."""
    summary = job.row.summary or {}
    certificate, budget = summary.get("certificate") or {}, job.row.request["budget"]
    values = {name: certificate.get(name) for name in ("drop", "low", "high")}
    plan = job.plan or {}
    return {
        "row": job.row,
        "name": job.row.name or job.row.id[:12],
        "sizes": summary,
        "metric": certificate.get("metric") or budget.get("metric"),
        "certificate": certificate,
        **{name: drop_text(value, budget, certificate) for name, value in values.items()},
        "max_drop": drop_text(certificate.get("max_drop", budget.get("max_drop")), budget, certificate),
        "latency": (plan.get("latency") or {}).get("measured"),
        "load": plan.get("load"),
        "bit_operations": plan.get("bit_operations"),
        "predicted_damage": plan.get("predicted_damage"),
    }

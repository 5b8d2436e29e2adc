"""`/compare?job=A&job=B`: jobs side by side."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from app.api.state import Service
from app.pages.amounts import drop_text
from app.pages.rendering import render
from app.services import comparison
from app.services.comparison import Compared

router = APIRouter(include_in_schema=False)


@router.get("/compare", response_class=Response)
def compare_jobs(
    request: Request, service: Service, job_ids: Annotated[list[str] | None, Query(alias="job")] = None
) -> Response:
    """What was asked differently, what came of it, and the formats of the layers."""
    compared = comparison.compare(service.sessions, job_ids or [])
    return render(
        request,
        "compare.html",
        service,
        jobs=[_shown(job) for job in compared],
        differences=comparison.request_differences(compared),
        layers=comparison.layers(compared),
    )


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
        "bit_operations": plan.get("bit_operations"),
        "predicted_damage": plan.get("predicted_damage"),
    }

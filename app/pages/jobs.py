"""`/`: the jobs of the project, those that run kept fresh."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from app.api.state import Service
from app.lifecycle.states import JobState, Outcome
from app.pages.amounts import drop_text
from app.pages.forms import Blank, with_query
from app.pages.rendering import render
from app.pages.sparkline import sparkline
from app.schemas.budget import Sha256
from app.schemas.labels import Name, Tag
from app.services import listing, uploads
from app.services.listing import ListedJob
from app.store.jobs import JobFilter
from app.store.uploads import UploadFilter

router = APIRouter(include_in_schema=False)

_PAGE = 50
_MOST_OFFERED = 200
"""Models among which the filter lets one choose."""

JobIds = Annotated[list[str], Query(alias="job", max_length=_PAGE)]


@router.get("/", response_class=Response)
def list_jobs(
    request: Request,
    service: Service,
    state: Annotated[JobState | None, Blank] = None,
    outcome: Annotated[Outcome | None, Blank] = None,
    name: Annotated[Name | None, Blank] = None,
    tag: Annotated[Tag | None, Blank] = None,
    model_id: Annotated[Sha256 | None, Blank] = None,
    upload_id: Annotated[Sha256 | None, Blank] = None,
    cursor: Annotated[str | None, Query(max_length=200), Blank] = None,
) -> Response:
    """Jobs, newest first."""
    wanted: dict[str, Any] = {
        "state": state,
        "outcome": outcome,
        "name": name,
        "tag": tag,
        "model_id": model_id,
        "upload_id": upload_id,
    }
    listed, following = listing.list_jobs(service.sessions, JobFilter(**wanted), _PAGE, cursor)
    models, _ = uploads.recent(service.sessions, "model", UploadFilter(), _MOST_OFFERED, None)
    return render(
        request,
        "jobs.html",
        service,
        jobs=[_shown(job) for job in listed],
        wanted=wanted,
        filtered=any(wanted.values()),
        models=models,
        states=list(JobState),
        outcomes=list(Outcome),
        here=with_query("/", {**wanted, "cursor": cursor}),
        newest=with_query("/", wanted) if cursor else None,
        older=with_query("/", {**wanted, "cursor": following}) if following else None,
    )


@router.get("/jobs-active", response_class=Response)
def refresh_jobs(request: Request, service: Service, job_ids: JobIds) -> Response:
    """What has changed in the lines of these jobs, for htmx to put in its place."""
    listed = listing.jobs_by_id(service.sessions, job_ids)
    return render(request, "jobs_active.html", service, jobs=[_shown(job) for job in listed])


def _shown(job: ListedJob) -> dict[str, Any]:
    """What a line of the table shows of a job."""
    summary = job.row.summary or {}
    certificate, budget = summary.get("certificate") or {}, job.row.request["budget"]
    drop, max_drop = certificate.get("drop"), certificate.get("max_drop", budget.get("max_drop"))
    return {
        "row": job.row,
        "model_name": job.model_name,
        "is_active": not JobState(job.row.state).final,
        "metric": certificate.get("metric") or budget.get("metric"),
        "drop": None if drop is None else drop_text(drop, budget, certificate),
        "max_drop": drop_text(max_drop, budget, certificate),
        "sizes": summary,
        "sparkline": sparkline(job.evaluated, max_drop),
    }

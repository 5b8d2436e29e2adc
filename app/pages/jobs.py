"""`/`: the jobs of the project."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response

from app.api.jobs import job_view
from app.api.state import Service
from app.pages.rendering import render
from app.services import jobs
from app.store.jobs import JobFilter

router = APIRouter(include_in_schema=False)

_PAGE = 50


@router.get("/", response_class=Response)
def list_jobs(request: Request, service: Service, cursor: str | None = None) -> Response:
    """Jobs, newest first."""
    rows, following = jobs.recent(service.sessions, JobFilter(), _PAGE, cursor)
    return render(request, "jobs.html", service, jobs=[job_view(row) for row in rows], following=following)

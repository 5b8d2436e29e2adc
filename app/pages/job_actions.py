"""What people do to a job from any page that shows it: stop it, name it, remove it. Each leads back to where it was."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Form
from fastapi.responses import RedirectResponse

from app.api.state import Service
from app.pages.forms import NameField, TagsField, labels_of, local
from app.services import jobs
from app.services.labels import label_job
from app.services.removal import remove_job

router = APIRouter(prefix="/jobs/{job_id}", include_in_schema=False)

To = Annotated[str, Form(max_length=2000)]


@router.post("/cancel")
def cancel(job_id: str, service: Service, to: To = "") -> RedirectResponse:
    """Stop the job, then show it, or what `to` says."""
    jobs.cancel(service.sessions, job_id)
    return RedirectResponse(local(to, f"/jobs/{job_id}"), 303)


@router.post("/labels")
def label(
    job_id: str,
    service: Service,
    name: NameField = "",
    tags: TagsField = "",
    pinned: Annotated[bool, Form()] = False,
    to: To = "",
) -> RedirectResponse:
    """Change name and tags, and whether the job is kept."""
    label_job(service.sessions, job_id, labels_of(name, tags, pinned))
    return RedirectResponse(local(to, f"/jobs/{job_id}"), 303)


@router.post("/delete")
def delete(job_id: str, service: Service, to: To = "") -> RedirectResponse:
    """Remove the job; there is nothing to go back to but a list."""
    remove_job(service.sessions, job_id)
    return RedirectResponse(local(to, "/"), 303)

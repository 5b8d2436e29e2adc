"""`/jobs/ID/edit`: the plan of a job, layer by layer; what changes is applied as a replan."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import RedirectResponse, Response

from app.api.receiving import JSON_BYTES, limited
from app.api.state import Service, State
from app.errors import AppError
from app.pages.forms import key_of, new_key
from app.pages.rendering import render
from app.schemas.strict import MAX_LAYERS
from app.services import jobs
from app.services.plan_edits import EditedPlan, plan_to_edit

router = APIRouter(prefix="/jobs/{job_id}/edit", include_in_schema=False)

_MOST_FIELDS = 4 * MAX_LAYERS


@router.get("", response_class=Response)
def edit(request: Request, job_id: str, service: Service) -> Response:
    """The plan as a form."""
    edited = plan_to_edit(service.sessions, job_id)
    return _form(request, service, job_id, edited, [row.format for row in edited.rows])


@router.post("/predicted", response_class=Response)
async def predict(request: Request, job_id: str, service: Service) -> Response:
    """What is predicted of the plan as the form has it, for htmx to put in its place."""
    sent = await _sent(request)
    return await run_in_threadpool(_predicted, request, service, job_id, sent)


@router.post("", response_class=Response)
async def apply(request: Request, job_id: str, service: Service) -> Response:
    """Apply the plan as a new job, and show that."""
    sent = await _sent(request)
    return await run_in_threadpool(_applied, request, service, job_id, sent)


def _predicted(request: Request, service: State, job_id: str, sent: dict[str, str]) -> Response:
    edited = plan_to_edit(service.sessions, job_id)
    formats = _formats(edited, sent)
    return render(request, "job_predicted.html", service, **_shown(edited, formats), fresh=True)


def _applied(request: Request, service: State, job_id: str, sent: dict[str, str]) -> Response:
    edited = plan_to_edit(service.sessions, job_id)
    formats = _formats(edited, sent)
    changes = edited.changes(formats)
    if not changes:
        text = "Nothing is changed yet: give a layer another format."
        return _form(request, service, job_id, edited, formats, text, status=422)
    key = key_of(sent.get("key"), changes)
    row = jobs.replan(service.sessions, service.wake, job_id, {"plan": changes}, key=key)
    return RedirectResponse(f"/jobs/{row.id}", 303)


def _form(
    request: Request,
    service: State,
    job_id: str,
    edited: EditedPlan,
    formats: list[str],
    error: str | None = None,
    status: int = 200,
) -> Response:
    row = jobs.get(service.sessions, job_id)
    shown = {
        "key": new_key(),
        "is_too_large": edited.is_too_large,
        "error": error,
        "fresh": False,
        **_shown(edited, formats),
    }
    every = list(dict.fromkeys(choice.format for row in edited.rows for choice in row.choices))
    return render(request, "job_edit.html", service, status=status, job=row, every_format=every, **shown)


def _shown(edited: EditedPlan, formats: list[str]) -> dict[str, Any]:
    rows = [(row, row.choice(format_)) for row, format_ in zip(edited.rows, formats, strict=True)]
    return {"plan": edited.plan, "rows": rows, "predicted": edited.predicted(formats), "before": _before(edited)}


def _before(edited: EditedPlan) -> Any:
    return edited.predicted([row.format for row in edited.rows])


def _formats(edited: EditedPlan, sent: dict[str, str]) -> list[str]:
    """The format of each row; a row that the form leaves out keeps its own."""
    return [sent.get(f"format-{number}", row.format) for number, row in enumerate(edited.rows)]


async def _sent(request: Request) -> dict[str, str]:
    bounded = limited(request, JSON_BYTES, None)
    async with bounded.form(max_files=0, max_fields=_MOST_FIELDS) as received:
        sent = {name: value for name, value in received.items() if isinstance(value, str)}
    if not sent:
        raise AppError("request_malformed", "the form is empty; send it from the page that edits a plan")
    return sent

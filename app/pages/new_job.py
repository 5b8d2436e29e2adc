"""`/new`: start a job. Its files, the budget in words, and everything else that a request may say."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import RedirectResponse, Response

from app.api.state import Service, State
from app.pages.form_errors import Errors
from app.pages.form_fields import Values, values_of
from app.pages.job_form import answered, form, labels_of
from app.pages.sent_form import Sent, received
from app.schemas.job_request import JobRequest
from app.schemas.parsing import is_certificate, parse_labelled, parse_request, without_retired
from app.services import jobs

router = APIRouter(include_in_schema=False)

_FILES = ("model", "dataset")
_OPSETS = [(str(opset), str(opset)) for opset in range(25, 17, -1)]
_DEFAULTS = JobRequest(model_id="0" * 64).model_dump(mode="json")


@router.get("/new", response_class=Response)
def ask(
    request: Request,
    service: Service,
    model_id: str = "",
    dataset_id: str = "",
    parent: Annotated[str, Query(alias="from")] = "",
) -> Response:
    """The form: empty, about stored files, or with the request of the job `from`."""
    given: Values = {"model_id": model_id, "dataset_id": dataset_id, "budget.kind": ""}
    values = values_of(_DEFAULTS, _DEFAULTS) | given
    if parent:
        job = jobs.get(service.sessions, parent)
        if is_certificate(job.request):
            return RedirectResponse(f"/certify?from={job.id}", 303)
        values = values_of(without_retired(job.request) | labels_of(job), _DEFAULTS)
    return _form(request, service, values | {"from": parent}, {})


@router.post("/new", response_class=Response)
async def submit(request: Request, service: Service) -> Response:
    """Make the job and show it; or the form again, as it was, with what is wrong at its fields."""
    sent = await received(request, service, _FILES)
    return await run_in_threadpool(answered, sent, partial(_job, service, sent), partial(_form, request, service))


def _job(service: State, sent: Sent, members: dict[str, Any]) -> str:
    """The id of the job with these members. About model and data of the job `from` it is a replan of that."""
    wanted, labels = parse_labelled(parse_request, members)
    parent, scope = None, "jobs"
    if sent.text("from"):
        before = jobs.get(service.sessions, sent.text("from"))
        if (before.model_id, before.dataset_id) == (wanted.model_id, wanted.dataset_id):
            parent, scope = before.id, f"replan/{before.id}"
    key = jobs.IdempotencyKey(scope, sent.text("key"))
    return jobs.submit(service.sessions, service.wake, wanted, labels, key=key, parent_id=parent).id


def _form(request: Request, service: State, values: Values, errors: Errors) -> Response:
    return form(request, "new.html", service, values, errors, _FILES, opsets=_OPSETS, all_held_out=False)

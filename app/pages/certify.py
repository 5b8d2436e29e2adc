"""`/certify`: have a quantized file that anybody made measured and read against its float model."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response

from app.api.state import Service, State
from app.errors import AppError
from app.pages.form_errors import Errors
from app.pages.form_fields import Values, values_of
from app.pages.job_form import answered, form, labels_of
from app.pages.sent_form import Sent, received
from app.schemas.certificate_request import CertificateRequest
from app.schemas.parsing import is_certificate, parse_certificate_request, parse_labelled
from app.services import jobs

router = APIRouter(include_in_schema=False)

_FILES = ("model", "quantized", "dataset")
_DEFAULTS = CertificateRequest(model_id="0" * 64, quantized_id="0" * 64).model_dump(mode="json")


@router.get("/certify", response_class=Response)
def ask(
    request: Request,
    service: Service,
    model_id: str = "",
    quantized_id: str = "",
    dataset_id: str = "",
    parent: Annotated[str, Query(alias="from")] = "",
) -> Response:
    """The form: empty, about stored files, or with the request of the certificate `from`."""
    given: Values = {
        "model_id": model_id,
        "quantized_id": quantized_id,
        "dataset_id": dataset_id,
        "budget.kind": "",
    }
    values = values_of(_DEFAULTS, _DEFAULTS) | given
    if parent:
        job = jobs.get(service.sessions, parent)
        if not is_certificate(job.request):
            raise AppError("not_found", f"the job {parent} is no certificate; /new?from={parent} shows its request")
        values = values_of(job.request | labels_of(job), _DEFAULTS)
    return _form(request, service, values, {})


@router.post("/certify", response_class=Response)
async def submit(request: Request, service: Service) -> Response:
    """Make the job and show it; or the form again, as it was, with what is wrong at its fields."""
    sent = await received(request, service, _FILES)
    return await run_in_threadpool(answered, sent, partial(_job, service, sent), partial(_form, request, service))


def _job(service: State, sent: Sent, members: dict[str, Any]) -> str:
    """The id of the job with these members."""
    wanted, labels = parse_labelled(parse_certificate_request, members)
    key = jobs.IdempotencyKey("certificates", sent.text("key"))
    return jobs.submit(service.sessions, service.wake, wanted, labels, key=key).id


def _form(request: Request, service: State, values: Values, errors: Errors) -> Response:
    return form(request, "certify.html", service, values, errors, _FILES, all_held_out=True)

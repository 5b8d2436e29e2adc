"""Certificates of quantized files that other tools made: jobs like all others, with another request."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool

from app.api.jobs import BINARY, LABELS, SUBMIT_ANSWERS, Key, accepted
from app.api.receiving import received_json
from app.api.state import Service
from app.api.submission import CERTIFICATE, received_form
from app.schemas.answers import Job
from app.schemas.certificate_request import FROM_ELSEWHERE, CertificateRequest
from app.schemas.parsing import parse_certificate_request, parse_labelled, parse_object
from app.services import jobs

router = APIRouter(prefix="/v1", tags=["jobs"])

_REQUEST_SCHEMA = CertificateRequest.model_json_schema(ref_template="#/components/schemas/{model}")
_REQUEST_SCHEMA["properties"] |= LABELS
SCHEMAS = _REQUEST_SCHEMA.pop("$defs")
"""Schemas that the body below refers to; `app.main` adds them to OpenAPI."""
_PART_SCHEMA = {
    **_REQUEST_SCHEMA,
    "properties": {name: s for name, s in _REQUEST_SCHEMA["properties"].items() if name not in FROM_ELSEWHERE},
    "required": [],
}
_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": _REQUEST_SCHEMA},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {
                        **dict.fromkeys(("model", "quantized", "dataset", "metric"), BINARY),
                        "request": _PART_SCHEMA,
                    },
                    "required": ["model", "quantized"],
                }
            },
        },
    }
}


@router.post("/certificates", name="certify_file", status_code=202, responses=SUBMIT_ANSWERS, openapi_extra=_BODY)
async def certify(request: Request, response: Response, service: Service, key: Key = None) -> Job:
    """Make a job that certifies a quantized file against its float model. JSON names uploads by id; multipart brings
    `model`, `quantized`, `dataset`, `metric` and `request` in one call."""
    scoped = None if key is None else jobs.IdempotencyKey("certificates", key)
    if request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        wanted, labels = await received_form(request, service, CERTIFICATE)
    else:
        members = parse_object(await received_json(request))
        wanted, labels = parse_labelled(parse_certificate_request, members)
    row = await run_in_threadpool(
        jobs.submit,
        service.sessions,
        service.wake,
        wanted,
        labels,
        key=scoped,
    )
    return accepted(response, row)

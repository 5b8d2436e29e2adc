"""PUT /v1/models and PUT /v1/datasets: raw bodies of any size up to the limit."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.concurrency import run_in_threadpool

from app.api.model_parts import MEDIA_TYPE, is_form, received_model
from app.api.problems import problem_answers
from app.api.receiving import limited, received_file
from app.api.room import within_room
from app.api.state import Service, State
from app.schemas.answers import Upload
from app.services.uploads import store_upload

router = APIRouter(prefix="/v1", tags=["uploads"])

Name = Annotated[
    str | None,
    Query(
        min_length=1,
        max_length=255,
        pattern=r"^[^\x00-\x1f\x7f]*$",
        description="A name to recognise it by; replaces the name of the same contents. Without control characters.",
    ),
]
_ERRORS = problem_answers(
    "origin_refused", "role_insufficient", "request_malformed", "payload_too_large", "request_invalid", "storage_full"
)
_RAW_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}


_FILE = {"type": "string", "format": "binary"}
_MODEL_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            **_RAW_BODY["requestBody"]["content"],
            MEDIA_TYPE: {
                "schema": {
                    "type": "object",
                    "required": ["model"],
                    "properties": {"model": _FILE},
                    "additionalProperties": _FILE,
                }
            },
        },
    }
}


@router.put("/models", status_code=201, responses={200: {"model": Upload}, **_ERRORS}, openapi_extra=_MODEL_BODY)
async def put_model(request: Request, response: Response, service: Service, name: Name = None) -> Upload:
    """Upload an ONNX model: 201 if it is new, 200 if it was there. The body is the file itself, a zip archive of it
    with the files that its tensors lie in, or a form with a part for each of these."""
    limit = service.settings.max_model_bytes
    return await _put(request, response, service, "model", name, limit, "BITBUDGET_MAX_MODEL_BYTES")


@router.put("/datasets", status_code=201, responses={200: {"model": Upload}, **_ERRORS}, openapi_extra=_RAW_BODY)
async def put_dataset(request: Request, response: Response, service: Service, name: Name = None) -> Upload:
    """Upload samples as .npz: arrays by input name, sample axis first; optional `labels` or `targets`."""
    limit = service.settings.max_dataset_bytes
    return await _put(request, response, service, "dataset", name, limit, "BITBUDGET_MAX_DATASET_BYTES")


async def _put(
    request: Request, response: Response, service: State, kind: str, name: str | None, limit_bytes: int, setting: str
) -> Upload:
    if service.settings.max_upload_bytes < limit_bytes:
        limit_bytes, setting = service.settings.max_upload_bytes, "BITBUDGET_MAX_UPLOAD_BYTES"
    receive = received_model if kind == "model" and is_form(request) else received_file
    bounded = limited(await within_room(request, service), limit_bytes, setting)
    async with receive(bounded, service.settings.tmp_dir) as received:
        row, created = await run_in_threadpool(
            store_upload, service.sessions, kind, received.file, received.sha256, received.size_bytes, name
        )
    response.status_code = 201 if created else 200
    return Upload(id=row.id, name=row.name, size_bytes=row.size_bytes, sha256=row.id)

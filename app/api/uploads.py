"""PUT /v1/models and PUT /v1/datasets: raw bodies of any size up to the limit."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.concurrency import run_in_threadpool

from app.api.model_parts import MEDIA_TYPE, is_form, received_model
from app.api.problems import problem_answers
from app.api.receiving import limited, received_file
from app.api.room import within_room
from app.api.state import Service, State
from app.schemas.answers import Upload
from app.schemas.labels import Tag
from app.services.uploads import store_upload
from app.store.tables import UploadRow

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
TagsGiven = Annotated[
    list[Tag] | None, Query(alias="tag", max_length=32, description="Once for each tag; they replace those it had.")
]
Pinned = Annotated[bool | None, Query(description="true: kept however long it is not used.")]
_ERRORS = problem_answers(
    "origin_refused",
    "role_insufficient",
    "request_malformed",
    "payload_too_large",
    "media_type_unsupported",
    "request_invalid",
    "storage_full",
)
Store = Callable[..., tuple[UploadRow, bool]]
"""`store_upload` with what the upload is called."""
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
async def put_model(
    request: Request,
    response: Response,
    service: Service,
    name: Name = None,
    tags: TagsGiven = None,
    pinned: Pinned = None,
) -> Upload:
    """Upload an ONNX model: 201 if it is new, 200 if it was there. The body is the file itself, a zip archive of it
    with the files that its tensors lie in, or a form with a part for each of these."""
    limit = service.settings.max_model_bytes
    store = partial(store_upload, name=name, tags=tags, pinned=pinned)
    return await _put(request, response, service, "model", store, limit, "BITBUDGET_MAX_MODEL_BYTES")


@router.put("/datasets", status_code=201, responses={200: {"model": Upload}, **_ERRORS}, openapi_extra=_RAW_BODY)
async def put_dataset(
    request: Request,
    response: Response,
    service: Service,
    name: Name = None,
    tags: TagsGiven = None,
    pinned: Pinned = None,
) -> Upload:
    """Upload samples as .npz, .npy, HDF5, Parquet, Arrow or safetensors: arrays by input name, sample axis first;
    optional `labels`, `targets` or `boxes`."""
    limit = service.settings.max_dataset_bytes
    store = partial(store_upload, name=name, tags=tags, pinned=pinned)
    return await _put(request, response, service, "dataset", store, limit, "BITBUDGET_MAX_DATASET_BYTES")


async def _put(
    request: Request, response: Response, service: State, kind: str, store: Store, limit_bytes: int, setting: str
) -> Upload:
    if service.settings.max_upload_bytes < limit_bytes:
        limit_bytes, setting = service.settings.max_upload_bytes, "BITBUDGET_MAX_UPLOAD_BYTES"
    receive = received_model if kind == "model" and is_form(request) else received_file
    bounded = limited(await within_room(request, service), limit_bytes, setting)
    async with receive(bounded, service.settings.tmp_dir) as received:
        row, created = await run_in_threadpool(
            store, service.sessions, kind, received.file, received.sha256, received.size_bytes
        )
    response.status_code = 201 if created else 200
    return upload_view(row)


def upload_view(row: UploadRow) -> Upload:
    """A model or dataset as the API shows it."""
    return Upload(sha256=row.id, **{name: getattr(row, name) for name in Upload.model_fields if name != "sha256"})

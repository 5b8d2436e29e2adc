"""/v1/uploads: uploads in pieces by the tus protocol 1.0.0, so that a cut connection costs a piece, not the whole."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from app.api.declared import declared, sent_header
from app.api.problems import problem_answers
from app.api.state import Open, Service, State
from app.errors import AppError
from app.schemas.answers import OpenUpload
from app.services import resumable
from app.services.resumable import PATH, TusServer
from app.store.tables import OpenUploadRow

router = APIRouter(prefix="/v1", tags=["uploads"])

PIECE_BYTES = 4 * 1024**2
"""What a process that is killed can lose of what it received."""

_HEADERS = (
    "content-type",
    "tus-resumable",
    "upload-checksum",
    "upload-concat",
    "upload-defer-length",
    "upload-length",
    "upload-metadata",
    "upload-offset",
)
_CODES = {
    400: "request_malformed",
    403: "upload_finished",
    404: "not_found",
    409: "upload_offset_mismatch",
    410: "upload_expired",
    412: "upload_protocol_unsupported",
    413: "payload_too_large",
    415: "media_type_unsupported",
}
_CHANGES = ("origin_refused", "role_insufficient", "request_malformed", "upload_protocol_unsupported")
_EXISTING = ("not_found", "upload_expired")
_NUMBER = {"type": "integer", "minimum": 0}
_VERSION = sent_header("Tus-Resumable", "The version of the tus protocol.", {"const": "1.0.0"})
_LENGTH = sent_header("Upload-Length", "Bytes of the whole.", {"type": "integer", "minimum": 1})
_OFFSET = sent_header("Upload-Offset", "Where the body goes: bytes that have arrived.", _NUMBER)
_METADATA = sent_header(
    "Upload-Metadata",
    "Pairs of a key and Base64, with commas between them: `kind` (model or dataset), and `name` if it has one.",
    {"type": "string", "pattern": r"^kind (bW9kZWw=|ZGF0YXNldA==)(,name [A-Za-z0-9+/]+=*)?$"},
)
_BODY: dict[str, Any] = {
    "parameters": [_VERSION, _OFFSET],
    "requestBody": {
        "required": True,
        "content": {"application/offset+octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    },
}
Answer = tuple[int, dict[str, str], Any]


@router.options(
    "/uploads",
    status_code=204,
    response_class=Response,
    responses={204: declared(204, "Tus-Resumable", "Tus-Version", "Tus-Extension", "Tus-Max-Size")},
)
def describe_uploads(shared: Open) -> Response:
    """Version, extensions and largest size of the protocol, as response headers."""
    status, headers, _ = TusServer(shared.sessions, shared.settings).handle_request("OPTIONS", PATH, {})
    headers.pop("Tus-Checksum-Algorithm", None)
    return Response(status_code=status, headers=headers)


@router.post(
    "/uploads",
    status_code=201,
    response_class=Response,
    responses={
        201: declared(201, "Location", "Tus-Resumable", "Upload-Expires"),
        **problem_answers(*_CHANGES, "payload_too_large", "storage_full"),
    },
    openapi_extra={"parameters": [_VERSION, _LENGTH, _METADATA]},
)
def create_upload(request: Request, service: Service) -> Response:
    """Begin an upload: `Upload-Length`, and `Upload-Metadata` with `kind` (model or dataset) and `name` in Base64.
    `Location` is where its bytes go, with PATCH."""
    answer = TusServer(service.sessions, service.settings).handle_request("POST", PATH, _tus_headers(request))
    return _response(answer)


@router.head(
    "/uploads/{open_id}",
    name="get_upload_offset",
    response_class=Response,
    responses={
        200: {**declared(200, "Upload-Offset", "Upload-Length", "Tus-Resumable", "Location"), "content": {}},
        **problem_answers(*_CHANGES[2:], *_EXISTING),
    },
    openapi_extra={"parameters": [_VERSION]},
)
def ask_offset(open_id: str, request: Request, service: Service) -> Response:
    """How much has arrived, as `Upload-Offset`: where the next PATCH goes on."""
    server = TusServer(service.sessions, service.settings)
    answer = _response(server.handle_request("HEAD", f"{PATH}/{open_id}", _tus_headers(request)))
    _name_result(answer, resumable.get(service.sessions, open_id))
    return answer


@router.get("/uploads/{open_id}", responses=problem_answers("not_found"))
def get_open_upload(open_id: str, service: Service) -> OpenUpload:
    """An upload in pieces, and once all has arrived the id of the model or dataset that it became."""
    row = resumable.get(service.sessions, open_id)
    return OpenUpload(
        id=row.id,
        kind="model" if row.kind == "model" else "dataset",
        name=row.name,
        size_bytes=row.size_bytes,
        received_bytes=row.received_bytes,
        expires_at=row.expires_at,
        upload_id=row.upload_id,
    )


@router.patch(
    "/uploads/{open_id}",
    status_code=204,
    response_class=Response,
    responses={
        204: declared(204, "Upload-Offset", "Tus-Resumable", "Location"),
        **problem_answers(
            *_CHANGES,
            *_EXISTING,
            "upload_finished",
            "upload_offset_mismatch",
            "payload_too_large",
            "media_type_unsupported",
            "storage_full",
        ),
    },
    openapi_extra=_BODY,
)
async def append_to_upload(open_id: str, request: Request, service: Service) -> Response:
    """Add the body at `Upload-Offset`. What has arrived before the connection is cut stays. With the last byte,
    `Location` names the model or dataset."""
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise AppError("media_type_unsupported", "bytes of an upload in pieces are sent as they are, not compressed")
    answer = await _append(request, service, open_id)
    if answer.headers.get("upload-offset") is not None:
        row = await run_in_threadpool(resumable.get, service.sessions, open_id)
        _name_result(answer, row)
    return answer


@router.delete(
    "/uploads/{open_id}",
    status_code=204,
    response_class=Response,
    responses=problem_answers(*_CHANGES, *_EXISTING),
    openapi_extra={"parameters": [_VERSION]},
)
def delete_open_upload(open_id: str, request: Request, service: Service) -> Response:
    """Give up an upload. A model or dataset that it became stays."""
    server = TusServer(service.sessions, service.settings)
    return _response(server.handle_request("DELETE", f"{PATH}/{open_id}", _tus_headers(request)))


async def _append(request: Request, service: State, open_id: str) -> Response:
    """Hand the body on in parts, each stored before more is read: one of them has to fit into memory, not the body."""
    server = TusServer(service.sessions, service.settings)
    headers = _tus_headers(request)

    async def store(part: bytes) -> Response:
        answer: Answer = await run_in_threadpool(
            server.handle_request, "PATCH", f"{PATH}/{open_id}", dict(headers), part
        )
        response = _response(answer)
        headers["upload-offset"] = response.headers["upload-offset"]
        return response

    response = await store(b"")  # before anything of the body is read: is it the right place?
    buffer = bytearray()
    try:
        async for part in request.stream():
            buffer += part
            if len(buffer) >= PIECE_BYTES:
                response = await store(bytes(buffer))
                buffer.clear()
    except ClientDisconnect:
        if buffer:
            await store(bytes(buffer))
        raise
    return await store(bytes(buffer)) if buffer else response


def _tus_headers(request: Request) -> dict[str, str]:
    # Not all of them: the library would take the method, and the name of the host, from headers of proxies.
    return {name: request.headers[name] for name in _HEADERS if name in request.headers}


def _response(answer: Answer) -> Response:
    status, headers, body = answer
    if status >= 400:
        raise _problem(status, headers, body.decode())
    return Response(status_code=status, headers=headers)


def _problem(status: int, headers: Mapping[str, str], text: str) -> AppError:
    told = {**headers, "Tus-Version": TusServer.TUS_VERSION} if status == 412 else headers
    return AppError(_CODES[status], f"{text} (tus {TusServer.TUS_VERSION}, https://tus.io/protocols)", headers=told)


def _name_result(response: Response, row: OpenUploadRow) -> None:
    if row.upload_id is not None:
        response.headers["Location"] = f"/v1/{row.kind}s/{row.upload_id}"

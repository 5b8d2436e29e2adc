"""POST /v1/jobs as multipart/form-data: model, data, metric and request in one call, for curl."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile

from app.api.receiving import JSON_BYTES, digest_of, limited
from app.api.state import State
from app.errors import AppError
from app.schemas.job_request import FROM_ELSEWHERE, JobRequest, uploaded_as
from app.schemas.parsing import parse_object, parse_request, with_uploads
from app.services.uploads import store_upload

PARTS = ("model", "dataset", "metric", "request")


async def received_form(request: Request, service: State) -> JobRequest:
    """Store the parts `model`, `dataset` and `metric` as uploads; the request of the part `request` about them.

    Starlette spools file parts to the system's folder for temporary files (TMPDIR), into files without a name: a
    client that hangs up leaves nothing. Nothing is stored before the whole request has been read and is valid.

    Raises:
        AppError: `payload_too_large`, `request_malformed`, and what is wrong with the request.
    """
    bounded = limited(request, service.settings.max_upload_bytes, "BITBUDGET_MAX_UPLOAD_BYTES")
    async with bounded.form(max_files=len(PARTS), max_fields=len(PARTS), max_part_size=JSON_BYTES) as form:
        return await run_in_threadpool(_store, form, service)


def _store(form: FormData, service: State) -> JobRequest:
    names = [name for name, _ in form.multi_items()]
    wrong = sorted({name for name in names if name not in PARTS or names.count(name) > 1})
    if wrong:
        raise AppError(
            "request_malformed", f"the parts are {', '.join(PARTS)}, each at most once; got {', '.join(wrong)}"
        )
    members = parse_object(_text(form))
    given = [name for name in FROM_ELSEWHERE if name in members]
    if given:
        raise AppError(
            "request_invalid",
            f"in a multipart request {' and '.join(given)} come from the parts model and dataset; leave them out, or "
            "send JSON",
        )
    settings = service.settings
    model = _file(form, "model", settings.max_model_bytes)
    if model is None:
        raise AppError("request_malformed", "the part model is missing; send it as a file: curl -F model=@model.onnx")
    dataset, metric = (
        _file(form, "dataset", settings.max_dataset_bytes),
        _file(form, "metric", settings.max_model_bytes),
    )
    if metric is not None and _names_a_metric(members):
        raise AppError(
            "request_invalid",
            "in a multipart request budget.metric_id comes from the part metric; leave it out, or leave out the part",
        )
    parts = {"model": model, "dataset": dataset, "metric": metric}
    # All are hashed, and the request is checked with their digests, before anything is stored.
    files = {kind: (part, digest_of(part.file)) for kind, part in parts.items() if part}
    wanted = parse_request(with_uploads(members, {kind: received.sha256 for kind, (_, received) in files.items()}))
    for kind, (part, received) in files.items():
        name = part.filename if part.filename and part.filename.isprintable() else None
        contents = received.file, received.sha256, received.size_bytes
        store_upload(service.sessions, uploaded_as(kind), *contents, None if name is None else name[-255:])
    return wanted


def _names_a_metric(members: Mapping[str, Any]) -> bool:
    budget = members.get("budget")
    return isinstance(budget, Mapping) and budget.get("metric_id") is not None


def _text(form: FormData) -> str | bytes:
    part = form.get("request")
    if part is None:
        return "{}"
    if isinstance(part, str):
        return part
    # curl -F request=@request.json
    text = part.file.read(JSON_BYTES + 1)
    if len(text) > JSON_BYTES:
        raise AppError("payload_too_large", f"the part request may have at most {JSON_BYTES} bytes")
    return text


def _file(form: FormData, name: str, limit_bytes: int) -> UploadFile | None:
    part = form.get(name)
    if part is None:
        return None
    if isinstance(part, str):
        raise AppError("request_malformed", f"the part {name} must be a file: curl -F {name}=@FILE")
    if not part.size:
        raise AppError("request_malformed", f"the part {name} is empty")
    if part.size > limit_bytes:
        raise AppError(
            "payload_too_large",
            f"the part {name} may have at most {limit_bytes} bytes, got {part.size}; whoever runs the service can "
            f"raise BITBUDGET_MAX_{uploaded_as(name).upper()}_BYTES",
        )
    return part

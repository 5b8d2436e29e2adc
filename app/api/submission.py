"""POST /v1/jobs and /v1/certificates as multipart/form-data: files and request in one call, for curl."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile

from app.api.receiving import JSON_BYTES, Received, digest_of, limited
from app.api.room import within_room
from app.api.state import State
from app.errors import AppError
from app.schemas.certificate_request import CertificateRequest
from app.schemas.job_request import JobRequest, uploaded_as
from app.schemas.labels import JobLabels
from app.schemas.parsing import (
    parse_certificate_request,
    parse_labelled,
    parse_object,
    parse_request,
    with_uploads,
)
from app.services.uploads import store_upload

Wanted = TypeVar("Wanted", JobRequest, CertificateRequest)


@dataclass(frozen=True, slots=True)
class Form(Generic[Wanted]):
    """What a call takes: its files, those that must be there, and what parses the request about them."""

    files: tuple[str, ...]
    needed: tuple[str, ...]
    parse: Callable[[Mapping[str, Any]], Wanted]

    @property
    def parts(self) -> tuple[str, ...]:
        return (*self.files, "request")


JOB = Form(("model", "dataset", "metric"), ("model",), parse_request)
CERTIFICATE = Form(("model", "quantized", "dataset", "metric"), ("model", "quantized"), parse_certificate_request)


async def received_form(request: Request, service: State, form: Form[Wanted]) -> tuple[Wanted, JobLabels]:
    """Store the parts that are files as uploads; the request of the part `request` about them, and its labels.

    Starlette spools file parts to the system's folder for temporary files (TMPDIR), into files without a name: a
    client that hangs up leaves nothing. Nothing is stored before the whole request has been read and is valid.

    Raises:
        AppError: `payload_too_large`, `request_malformed`, and what is wrong with the request.
    """
    bounded = limited(
        await within_room(request, service), service.settings.max_upload_bytes, "BITBUDGET_MAX_UPLOAD_BYTES"
    )
    most = len(form.parts)
    async with bounded.form(max_files=most, max_fields=most, max_part_size=JSON_BYTES) as received:
        return await run_in_threadpool(_store, received, service, form)


def _store(received: FormData, service: State, form: Form[Wanted]) -> tuple[Wanted, JobLabels]:
    names = [name for name, _ in received.multi_items()]
    wrong = sorted({name for name in names if name not in form.parts or names.count(name) > 1})
    if wrong:
        raise AppError(
            "request_malformed",
            f"the parts are {_listed(form.parts)}, each at most once; got {', '.join(wrong)}",
        )
    members = parse_object(_text(received))
    given = [f"{name}_id" for name in form.files if f"{name}_id" in members]
    budget = members.get("budget")
    if "metric" in names and isinstance(budget, Mapping) and budget.get("metric_id") is not None:
        given.append("budget.metric_id")
    if given:
        raise AppError(
            "request_invalid",
            f"in a multipart request {' and '.join(given)} come from the parts {_listed(form.files)}; leave them out, "
            "or send JSON",
        )
    parts = {name: file_part(received, service, name) for name in form.files}
    for name in form.needed:
        if parts[name] is None:
            raise AppError("request_malformed", f"the part {name} is missing; send it as a file: curl -F {name}=@FILE")
    # All are hashed, and the request is checked with their digests, before anything is stored.
    files = {name: (part, digest_of(part.file)) for name, part in parts.items() if part is not None}
    members = with_uploads(members, {name: digest.sha256 for name, (_, digest) in files.items()})
    wanted, labels = parse_labelled(form.parse, members)
    for name, (part, digest) in files.items():
        store_part(service, name, part, digest)
    return wanted, labels


def store_part(service: State, kind: str, part: UploadFile, digest: Received) -> None:
    """Store a file of a form as an upload, under its name if that can be shown."""
    name = part.filename[-255:] if part.filename and part.filename.isprintable() else None
    store_upload(service.sessions, uploaded_as(kind), digest.file, digest.sha256, digest.size_bytes, name)


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}"


def _limit(service: State, name: str) -> int:
    settings = service.settings
    return settings.max_dataset_bytes if uploaded_as(name) == "dataset" else settings.max_model_bytes


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


def file_part(form: FormData, service: State, name: str) -> UploadFile | None:
    """The part `name` of a form, which is what it is to a job; None: it is not there.

    Raises:
        AppError: `request_malformed`: it is no file, or empty; `payload_too_large`.
    """
    part, limit_bytes = form.get(name), _limit(service, name)
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

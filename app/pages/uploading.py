"""A file out of a form of the pages, stored as a model or dataset."""

from __future__ import annotations

from functools import partial
from typing import Literal

from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile

from app.api.receiving import digest_of, limited
from app.api.room import within_room
from app.api.state import State
from app.errors import AppError
from app.pages.forms import tags_of
from app.schemas.labels import UploadLabels
from app.schemas.parsing import parse_labels
from app.services.uploads import store_upload
from app.store.tables import UploadRow

_FIELDS = 4
_FORM_BYTES = 64 * 1024
"""What a form may take beside its file."""


async def received_upload(
    request: Request, service: State, kind: Literal["model", "dataset"], most_bytes: int
) -> UploadRow:
    """Store the part `file` of a form, with its fields `name` and `tags`; a name that was left out is the file's.

    Raises:
        AppError: `payload_too_large`, `request_malformed` where no file was chosen, `request_invalid`, and what
            `store_upload` raises.
    """
    setting = f"BITBUDGET_MAX_{kind.upper()}_BYTES or BITBUDGET_MAX_UPLOAD_BYTES"
    bounded = limited(await within_room(request, service), most_bytes + _FORM_BYTES, setting)
    async with bounded.form(max_files=1, max_fields=_FIELDS) as form:
        file = form.get("file")
        if not isinstance(file, UploadFile) or not file.filename or not file.size:
            raise AppError("request_malformed", f"the form came without a {kind}; choose a file that is not empty")
        wanted = {"name": form.get("name") or _shown(file.filename), "tags": tags_of(str(form.get("tags") or ""))}
        labels = parse_labels(UploadLabels, wanted)
        received = await run_in_threadpool(digest_of, file.file)
        store = partial(store_upload, name=labels.name, tags=labels.tags or None)
        row, _ = await run_in_threadpool(
            store, service.sessions, kind, received.file, received.sha256, received.size_bytes
        )
    return row


def _shown(filename: str) -> str | None:
    return filename[-255:] if filename.isprintable() else None

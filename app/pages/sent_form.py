"""A form as a browser sends it: its texts, and its files, which are stored at once as uploads.

Stored before anything is checked: who corrects a field does not send the files again. Without JavaScript this is how
files come; with it they have come in pieces before, and the form has their ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile

from app.api.receiving import JSON_BYTES, digest_of, limited
from app.api.room import within_room
from app.api.state import State
from app.api.submission import file_part, store_part
from app.errors import AppError
from app.pages.form_errors import Errors

_MOST_FIELDS = 200


@dataclass
class Sent:
    """What was sent: values by field, and what is wrong with the files."""

    texts: dict[str, list[str]] = field(default_factory=dict)
    errors: Errors = field(default_factory=dict)

    def text(self, name: str) -> str:
        """The last value of a field, without white space around it; empty where there is none."""
        values = self.texts.get(name) or [""]
        return values[-1].strip()


async def received(request: Request, service: State, files: Sequence[str]) -> Sent:
    """The form of a request.

    Args:
        files: fields that hold files, by what each is to a job: `model`, `quantized`, `dataset`. The id of what was
            stored becomes the value of the field `model_id`, and so on.

    Raises:
        AppError: `payload_too_large`, `request_malformed`, `quota_exceeded` for the whole of it.
    """
    settings = service.settings
    bounded = limited(await within_room(request, service), settings.max_upload_bytes, "BITBUDGET_MAX_UPLOAD_BYTES")
    async with bounded.form(max_files=len(files), max_fields=_MOST_FIELDS, max_part_size=JSON_BYTES) as form:
        return await run_in_threadpool(_stored, form, service, files)


def _stored(form: FormData, service: State, files: Sequence[str]) -> Sent:
    sent = Sent()
    for name, value in form.multi_items():
        if isinstance(value, str):
            sent.texts.setdefault(name, []).append(value.replace("\r\n", "\n"))
    for kind in files:
        part = form.get(kind)
        if not isinstance(part, UploadFile) or not part.filename:  # an empty field of files comes as a part without one
            continue
        try:
            file_part(form, service, kind)
            digest = digest_of(part.file)
            store_part(service, kind, part, digest)
        except AppError as error:
            sent.errors.setdefault(f"{kind}_id", []).append(error.detail)
        else:
            sent.texts[f"{kind}_id"] = [digest.sha256]
    return sent

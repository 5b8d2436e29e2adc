"""PUT /v1/models as multipart/form-data: a model and the files that its tensors lie in, one part each."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import BinaryIO

from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile

from app.api.receiving import Received, digest_of
from app.errors import AppError
from app.store.private import private_folder
from bitbudget_client.packing import MODEL_NAME, pack

MEDIA_TYPE = "multipart/form-data"
_MOST_FILES = 1000


def is_form(request: Request) -> bool:
    """Whether the body is made of parts."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower() == MEDIA_TYPE


@asynccontextmanager
async def received_model(request: Request, tmp_dir: Path) -> AsyncIterator[Received]:
    """The parts as one archive, in a file without a name; a model alone is that file itself.

    File names are names of the archive's entries alone: none is ever opened.

    Raises:
        AppError: `payload_too_large` if the request is `limited`; `request_malformed`: there is not one part `model`,
            or a part is no file or has the name of another.
    """
    private_folder(tmp_dir)
    async with request.form(max_files=_MOST_FILES, max_fields=1) as form:
        with tempfile.TemporaryFile(dir=tmp_dir) as file:
            yield await run_in_threadpool(_packed, form, file)


def _packed(form: FormData, file: BinaryIO) -> Received:
    models, data = [], dict[str, UploadFile]()
    for name, part in form.multi_items():
        if isinstance(part, str) or not part.filename:
            remedy = "send it with curl -F NAME=@FILE"
            raise AppError("request_malformed", f"the part {name[:80]!r} is no file; {remedy}")
        if name == "model":
            models.append(part)
        elif part.filename in (MODEL_NAME, *data):
            text = f"two parts are files called {part.filename[:80]!r}; expected one of each"
            raise AppError("request_malformed", text)
        else:
            data[part.filename] = part
    if len(models) != 1 or not models[0].size:
        raise AppError(
            "request_malformed",
            f"expected one part called model, which is the .onnx file, got {len(models)}: curl -X PUT -F "
            "model=@network.onnx -F data=@network.onnx.data",
        )
    if not data:
        return digest_of(models[0].file)
    pack(file, models[0].file, {name: part.file for name, part in data.items()})
    return digest_of(file)

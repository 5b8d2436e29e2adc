"""Request bodies: limited before and while they are read, and kept out of memory."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from starlette.types import Message, Receive

from app.api.compression import decompressed
from app.errors import AppError
from app.store.private import private_folder

BUFFER_BYTES = 1024**2
JSON_BYTES = 1024**2


@dataclass(frozen=True, slots=True)
class Received:
    """A received body: a file positioned at its beginning, and what is known of it."""

    file: BinaryIO
    sha256: str
    size_bytes: int


def limited(request: Request, limit_bytes: int, setting: str | None = None) -> Request:
    """The request with a body of at most `limit_bytes`: refused by its Content-Length, or else when it has come so far.

    Starlette's own `max_body_size` answers the first case in plain text, over the head of every error handler.

    Args:
        setting: the name of the setting that holds the limit, for the text of the error.

    A compressed body is decompressed, and limited as what it becomes.

    Raises:
        AppError: `payload_too_large`, here or while the body is read, and what `decompressed` raises.
    """
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > limit_bytes:
        raise _too_large(f"{announced} bytes", limit_bytes, setting)
    return Request(
        request.scope,
        counting(
            decompressed(request).receive, limit_bytes, lambda: _too_large("more than that", limit_bytes, setting)
        ),
    )


@asynccontextmanager
async def received_file(request: Request, tmp_dir: Path) -> AsyncIterator[Received]:
    """The body as a file without a name, hashed while it is read: it is gone when the block or the process ends.

    Raises:
        AppError: `payload_too_large` if the request is `limited`; `request_malformed` for an empty body.
        starlette.requests.ClientDisconnect: the client hung up.
    """
    private_folder(tmp_dir)
    digest, size_bytes, buffer = hashlib.sha256(), 0, bytearray()

    def flush() -> None:
        digest.update(buffer)
        file.write(buffer)
        buffer.clear()

    with tempfile.TemporaryFile(dir=tmp_dir) as file:
        async for part in request.stream():
            buffer += part
            size_bytes += len(part)
            if len(buffer) >= BUFFER_BYTES:
                # Hashing and writing a megabyte takes milliseconds, in which no other request would be answered.
                await run_in_threadpool(flush)
        await run_in_threadpool(flush)
        if size_bytes == 0:
            raise AppError("request_malformed", "the body is empty; send the file itself, e.g. curl -T FILE")
        file.seek(0)
        yield Received(file, digest.hexdigest(), size_bytes)


async def received_json(request: Request, *others: str) -> bytes:
    """A JSON body of at most 1 MiB, of type application/json or one of `others`.

    Raises:
        AppError: `payload_too_large`, `media_type_unsupported`.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type not in ("application/json", *others):
        raise AppError(
            "media_type_unsupported",
            f"expected a body of type application/json, got {media_type or 'no Content-Type'}; "
            "send the header Content-Type: application/json",
        )
    return await limited(request, JSON_BYTES).body()


def digest_of(file: BinaryIO) -> Received:
    """A file that is complete already, hashed; blocks while it reads."""
    digest, size_bytes = hashlib.sha256(), 0
    file.seek(0)
    while part := file.read(BUFFER_BYTES):
        digest.update(part)
        size_bytes += len(part)
    file.seek(0)
    return Received(file, digest.hexdigest(), size_bytes)


def counting(receive: Receive, limit_bytes: int, refusal: Callable[[], AppError]) -> Receive:
    """`receive` that raises what `refusal` makes once more than `limit_bytes` of the body have come."""
    total = 0

    async def counted() -> Message:
        nonlocal total
        message = await receive()
        total += len(message.get("body", b""))
        if total > limit_bytes:
            raise refusal()
        return message

    return counted


def _too_large(got: str, limit_bytes: int, setting: str | None) -> AppError:
    remedy = f"; whoever runs the service can raise {setting}" if setting else ""
    return AppError("payload_too_large", f"the body may have at most {limit_bytes} bytes, got {got}{remedy}")

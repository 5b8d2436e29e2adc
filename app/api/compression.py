"""Bodies in fewer bytes on the way: answers by `Accept-Encoding`, requests by `Content-Encoding`, both gzip."""

from __future__ import annotations

import re
import zlib

from fastapi import Request
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.gzip import DEFAULT_EXCLUDED_CONTENT_TYPES, GZipMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import AppError

SMALLEST_BYTES = 1024
MOST_EXPANSION = 200
"""Bytes that one byte of a body may become: weights and samples gain a few percent, and this takes none of them for an
attack that fills the disk with zeros."""

_LEVEL = 5
_NEVER = (*DEFAULT_EXCLUDED_CONTENT_TYPES, "application/octet-stream")
_REFUSED = re.compile(r"\bgzip\s*;\s*q=0(\.0*)?\s*(,|$)", re.IGNORECASE)
_GZIP = 16 + zlib.MAX_WBITS
_PIECE_BYTES = 1024**2


class Compress:
    """ASGI middleware: answers from 1 KiB on are compressed for clients that say that they take it, streams of events
    and contents that do not gain by it are not.

    The compressed answer is another representation, which has no bytes in common with the one whose digest the ETag
    is: its ETag becomes a weak one, which `If-Range` never matches (RFC 9110, section 8.8.3).
    """

    def __init__(self, app: ASGIApp) -> None:
        self._plain = app
        self._compressing = GZipMiddleware(
            app, minimum_size=SMALLEST_BYTES, compresslevel=_LEVEL, exclude_content_types=_NEVER
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or _REFUSED.search(Headers(scope=scope).get("accept-encoding", "")):
            await self._plain(scope, receive, send)
            return

        async def weakened(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                tag = headers.get("etag", "")
                if headers.get("content-encoding") == "gzip" and tag.startswith('"'):
                    headers["etag"] = f"W/{tag}"
            await send(message)

        await self._compressing(scope, receive, weakened)


def decompressed(request: Request) -> Request:
    """The request with its body as it was before `Content-Encoding`, read in pieces of at most 1 MiB.

    Raises:
        AppError: `media_type_unsupported` for an encoding that is not gzip; while it is read `request_malformed` for a
            body that is not what it says, `payload_too_large` for one that grows more than `MOST_EXPANSION`-fold.
    """
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding == "identity":
        return request
    if encoding not in ("gzip", "x-gzip"):
        raise AppError(
            "media_type_unsupported",
            f"expected a body as it is or with Content-Encoding: gzip, got {encoding[:80]!r}",
            headers={"Accept-Encoding": "gzip"},
        )
    return Request(request.scope, _Inflated(request.receive))


class _Inflated:
    """`receive` of a compressed body. Members of gzip may follow each other, as in files of several."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._inflate = zlib.decompressobj(_GZIP)
        self._rest = b""
        self._whole = False
        self._received_bytes = 0
        self._made_bytes = 0

    async def __call__(self) -> Message:
        while True:
            if self._rest:
                return {"type": "http.request", "body": self._next_piece(), "more_body": True}
            if self._whole:
                if not self._inflate.eof:
                    raise AppError("request_malformed", "the body ends before its gzip data do; send all of it")
                return {"type": "http.request", "body": b"", "more_body": False}
            message = await self._receive()
            if message["type"] != "http.request":
                return message
            self._rest = message.get("body", b"")
            self._whole = not message.get("more_body", False)
            self._received_bytes += len(self._rest)

    def _next_piece(self) -> bytes:
        if self._inflate.eof:
            self._inflate = zlib.decompressobj(_GZIP)
        try:
            piece = self._inflate.decompress(self._rest, _PIECE_BYTES)
        except zlib.error as error:
            raise AppError(
                "request_malformed", f"the body is not gzip as its Content-Encoding says: {error}"
            ) from error
        self._rest = self._inflate.unused_data if self._inflate.eof else self._inflate.unconsumed_tail
        self._made_bytes += len(piece)
        if self._made_bytes > max(MOST_EXPANSION * self._received_bytes, _PIECE_BYTES):
            raise AppError(
                "payload_too_large",
                f"the body becomes more than {MOST_EXPANSION} times as large as it is sent; send it without "
                "Content-Encoding",
            )
        return piece

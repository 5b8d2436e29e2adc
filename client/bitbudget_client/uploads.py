"""Uploads, as steps: nothing is sent that the server has, and a cut connection costs what the network held."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import httpx

from bitbudget_client.calls import label
from bitbudget_client.documents import Upload
from bitbudget_client.errors import Damaged, NotFound, Problem
from bitbudget_client.sources import Body, Contents, Source, contents_of
from bitbudget_client.steps import Call, Patience, Steps, Work, answered, checked

PIECES_FROM_BYTES = 8 * 1024 * 1024

_TUS = {"Tus-Resumable": "1.0.0"}
_LONGEST_NAME = 255

Sent = Callable[[str, int, int], None]
"""Is told what is sent, the bytes sent so far, and how many there are."""


@dataclass(frozen=True, slots=True)
class UploadCall:
    """An upload of a `model` or a `dataset`.

    Args:
        name, tags: what to call it; None: a new one has the name of its file, one that is there keeps what it has.
        pieces_from_bytes: from this size on it goes by the tus protocol, in a request that can be continued.
    """

    kind: str
    source: Source
    name: str | None = None
    tags: Sequence[str] | None = None
    pieces_from_bytes: int = PIECES_FROM_BYTES


def upload(call: UploadCall, seconds: float, sent: Sent) -> Steps[Upload]:
    """The model or dataset on the server.

    Raises:
        Damaged: the file changed while it was sent.
    """
    with contents_of(call.kind, call.source) as contents:
        digest: str = yield Work(contents.sha256)
        address = f"/v1/{call.kind}s/{digest}"
        with suppress(NotFound):
            there = Upload((yield from answered(Call("GET", address), seconds)).json())
            return (yield from _labelled(there, address, call, seconds))

        shown = call.name or (contents.name or "")[-_LONGEST_NAME:] or None
        what = shown or call.kind

        def tell(count: int) -> None:
            sent(what, count, contents.size_bytes)

        if contents.size_bytes >= call.pieces_from_bytes:
            upload_id = yield from _in_pieces(call.kind, contents, shown, seconds, tell)
        else:
            upload_id = yield from _whole(call.kind, contents, shown, seconds, tell)
        if upload_id != digest:
            raise Damaged(f"{contents.name or call.kind} changed while it was sent; send it again")
        there = Upload((yield from answered(Call("GET", address), seconds)).json())
        return (yield from _labelled(there, address, call, seconds))


def _labelled(there: Upload, address: str, call: UploadCall, seconds: float) -> Steps[Upload]:
    wanted = {"name": call.name, "tags": None if call.tags is None else list(call.tags)}
    changes = {
        member: value for member, value in wanted.items() if value is not None and value != there.document[member]
    }
    return Upload((yield from label(address, changes, seconds))) if changes else there


def _whole(kind: str, contents: Contents, name: str | None, seconds: float, sent: Callable[[int], None]) -> Steps[str]:
    headers = {"Content-Type": "application/octet-stream"}
    params = {"name": name} if name else None
    call = Call("PUT", f"/v1/{kind}s", params, headers, body=Body(contents, sent))
    return str((yield from answered(call, seconds)).json()["id"])


def _in_pieces(
    kind: str, contents: Contents, name: str | None, seconds: float, sent: Callable[[int], None]
) -> Steps[str]:
    """By the tus protocol; goes on as long as it comes further within `seconds`."""
    members = {"kind": kind, **({"name": name} if name else {})}
    metadata = ",".join(f"{key} {base64.b64encode(value.encode()).decode()}" for key, value in members.items())
    headers = {**_TUS, "Upload-Length": str(contents.size_bytes), "Upload-Metadata": metadata}
    begun = yield from answered(Call("POST", "/v1/uploads", headers=headers), seconds)
    address, offset, patience = begun.headers["location"], 0, Patience(seconds)
    while offset < contents.size_bytes:
        headers = {**_TUS, "Content-Type": "application/offset+octet-stream", "Upload-Offset": str(offset)}
        try:
            checked((yield Call("PATCH", address, headers=headers, body=Body(contents, sent, offset))))
            break
        except (httpx.TransportError, Problem) as error:
            elsewhere = isinstance(error, Problem) and error.code == "upload_offset_mismatch"
            pause = patience.pause(httpx.TransportError("the upload goes on elsewhere") if elsewhere else error)
        yield pause
        head = yield from answered(Call("HEAD", address, headers=_TUS), seconds)
        arrived = int(head.headers["upload-offset"])
        if arrived > offset:
            patience.renew()
        offset = arrived
    finished = yield from answered(Call("GET", address), seconds)
    return str(finished.json()["upload_id"])

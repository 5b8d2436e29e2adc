from __future__ import annotations

import base64
import hashlib
import os
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import func, select, update

from app.api import resumable as api
from app.lifecycle import recovery
from app.services import resumable
from app.settings import Settings
from app.store import blobs
from app.store.blobs import CHUNK_BYTES
from app.store.engine import Sessions, clock
from app.store.tables import BlobChunkRow, BlobRow, OpenUploadRow, UploadRow
from app.store.uploads import upload_blob

TUS = {"Tus-Resumable": "1.0.0"}
PIECE = {**TUS, "Content-Type": "application/offset+octet-stream"}


def _metadata(**members: str) -> str:
    return ",".join(f"{name} {base64.b64encode(value.encode()).decode()}" for name, value in members.items())


def _begin(server: Any, size: int, **members: str) -> str:
    headers = {**TUS, "Upload-Length": str(size), "Upload-Metadata": _metadata(**({"kind": "model"} | members))}
    answer = server.client.post("/v1/uploads", headers=headers)
    assert (answer.status_code, answer.headers["tus-resumable"]) == (201, "1.0.0"), answer.text
    assert answer.headers["upload-expires"].endswith("GMT")
    address: str = answer.headers["location"]
    assert address.startswith("/v1/uploads/")
    return address


def _patch(server: Any, address: str, offset: int, data: Any, **headers: str) -> Any:
    return server.client.patch(address, content=data, headers={**PIECE, "Upload-Offset": str(offset), **headers})


def _offset(server: Any, address: str) -> int:
    answer = server.client.head(address, headers=TUS)
    assert answer.status_code == 200
    return int(answer.headers["upload-offset"])


def _count(sessions: Sessions, table: type) -> int:
    with sessions.read() as session:
        return session.scalars(select(func.count()).select_from(table)).one()


def _stored(server: Any, kind: str, upload_id: str) -> bytes:
    with server.sessions.read() as session:
        blob = upload_blob(session, kind, upload_id)
    assert blob is not None
    return blobs.read_bytes(server.sessions, blob)


@pytest.mark.parametrize("cuts", [(), (1,), (5, CHUNK_BYTES, CHUNK_BYTES + 1, 2 * CHUNK_BYTES + 9)])
def test_pieces_of_any_size_become_the_upload(server: Any, cuts: tuple[int, ...]) -> None:
    data = os.urandom(2_500_000)
    digest = hashlib.sha256(data).hexdigest()
    address = _begin(server, len(data), name="réseau.onnx")
    for start, stop in zip((0, *cuts), (*cuts, len(data)), strict=True):
        assert _offset(server, address) == start
        answer = _patch(server, address, start, data[start:stop])
        assert (answer.status_code, answer.headers["upload-offset"]) == (204, str(stop))
        assert answer.headers.get("location") == (f"/v1/models/{digest}" if stop == len(data) else None)
    assert _stored(server, "model", digest) == data
    upload = server.client.get(address).json()
    assert (upload["upload_id"], upload["received_bytes"], upload["name"]) == (digest, len(data), "réseau.onnx")
    # As if it had come in one: chunks are full, so that a range of it is found.
    assert _count(server.sessions, BlobChunkRow) == 3
    assert _count(server.sessions, BlobRow) == 1
    assert server.client.put("/v1/models", content=data).json()["name"] == "réseau.onnx"
    with server.sessions.read() as session:
        blob = upload_blob(session, "model", digest)
    assert blob is not None
    part = blobs.read_range(server.sessions, blob, CHUNK_BYTES - 1, CHUNK_BYTES + 1)
    assert b"".join(part) == data[CHUNK_BYTES - 1 : CHUNK_BYTES + 1]


def test_contents_that_are_there_are_not_stored_twice(server: Any) -> None:
    data = os.urandom(1_200_000)
    server.client.put("/v1/datasets", content=data)
    address = _begin(server, len(data), kind="dataset")
    assert _patch(server, address, 0, data).status_code == 204
    assert _count(server.sessions, BlobRow) == 1
    assert _count(server.sessions, UploadRow) == 1


def test_a_finished_upload_goes_where_contents_go(serve: Any, settings: Settings, tmp_path: Any) -> None:
    server = serve(settings.model_copy(update={"blobs": f"file://{tmp_path / 'blobs'}"}))
    data = os.urandom(1_200_000)
    address = _begin(server, len(data))
    _patch(server, address, 0, data[:1_100_000])
    assert _count(server.sessions, BlobChunkRow) == 2
    assert _patch(server, address, 1_100_000, data[1_100_000:]).status_code == 204
    assert _count(server.sessions, BlobChunkRow) == 0
    assert _count(server.sessions, BlobRow) == 1
    assert _stored(server, "model", hashlib.sha256(data).hexdigest()) == data


@pytest.mark.parametrize("piece", [100_000, api.PIECE_BYTES])
def test_what_arrived_before_the_cut_stays(
    server: Any, wait_until: Callable[..., None], monkeypatch: pytest.MonkeyPatch, piece: int
) -> None:
    monkeypatch.setattr(api, "PIECE_BYTES", piece)
    data = os.urandom(700_000)
    address = _begin(server, len(data))
    with socket.create_connection(("127.0.0.1", server.port), timeout=120) as connection:
        head = f"PATCH {address} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\nUpload-Offset: 0\r\n"
        lines = "".join(f"{name}: {value}\r\n" for name, value in PIECE.items())
        connection.sendall(f"{head}{lines}\r\n".encode() + data[:550_000])
    # A request counts when it has ended.
    ended = 'bitbudget_http_requests_total{method="PATCH",route="/v1/uploads/{open_id}",status="400"} 1.0'
    wait_until(lambda: ended in server.client.get("/metrics").text)
    arrived = _offset(server, address)
    # What the server's own buffer holds of a connection that is gone, twice 64 KiB, is lost.
    assert 300_000 <= arrived <= 550_000
    assert _patch(server, address, arrived, data[arrived:]).status_code == 204
    assert _stored(server, "model", hashlib.sha256(data).hexdigest()) == data


def test_one_of_two_requests_at_the_same_place_wins(server: Any) -> None:
    data = os.urandom(1_500_000)
    address = _begin(server, len(data))
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: _patch(server, address, 0, data[:1_200_000]), range(4)))
    codes = sorted(answer.status_code for answer in answers)
    assert codes == [204, 409, 409, 409]
    refused = next(answer for answer in answers if answer.status_code == 409)
    assert refused.json()["code"] == "upload_offset_mismatch"
    assert _patch(server, address, 1_200_000, data[1_200_000:]).status_code == 204
    assert _stored(server, "model", hashlib.sha256(data).hexdigest()) == data


def test_a_process_that_dies_after_the_last_byte_loses_nothing(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(*_: Any) -> None:
        raise RuntimeError("killed")

    for broken in ("_digest", "store_upload"):
        data = os.urandom(1_100_000)
        address = _begin(server, len(data))
        with monkeypatch.context() as patched:
            patched.setattr(resumable, broken, die)
            # The server closes a connection on which a request failed, at a moment of its own.
            assert _patch(server, address, 0, data, Connection="close").status_code == 500
        assert _offset(server, address) == len(data)
        digest = hashlib.sha256(data).hexdigest()
        assert server.client.get(address).json()["upload_id"] == digest
        assert _stored(server, "model", digest) == data
        finished = _patch(server, address, len(data), b"")
        assert (finished.status_code, finished.json()["code"]) == (403, "upload_finished")


def test_a_day_later_nothing_of_it_is_left(server: Any) -> None:
    address = _begin(server, 2_000_000)
    _patch(server, address, 0, bytes(1_500_000))
    done = _begin(server, 3)
    _patch(server, done, 0, b"abc")
    assert recovery.clean(server.sessions, server.settings) == 0
    with server.sessions.begin() as session:
        session.execute(update(BlobRow).values(touched_at=clock(session) - timedelta(hours=2)))
    assert recovery.clean(server.sessions, server.settings) == 0, "an open upload keeps what has arrived"
    with server.sessions.begin() as session:
        session.execute(update(OpenUploadRow).values(expires_at=clock(session) - timedelta(seconds=1)))
    expired = _patch(server, address, 1_500_000, b"x")
    assert (expired.status_code, expired.json()["code"]) == (410, "upload_expired")
    assert recovery.clean(server.sessions, server.settings) == 1
    assert _count(server.sessions, OpenUploadRow) == 0
    assert _count(server.sessions, BlobRow) == 1
    assert server.client.head(address, headers=TUS).status_code == 404


def test_giving_up_frees_what_arrived_and_keeps_what_was_finished(server: Any) -> None:
    address, done = _begin(server, 2_000_000), _begin(server, 3)
    _patch(server, address, 0, bytes(1_500_000))
    _patch(server, done, 0, b"abc")
    for each in (address, done):
        assert server.client.delete(each, headers=TUS).status_code == 204
        gone = server.client.get(each)
        assert (gone.status_code, gone.json()["code"]) == (404, "not_found")
    assert blobs.remove_abandoned(server.sessions, timedelta(0)) == 1
    assert _stored(server, "model", hashlib.sha256(b"abc").hexdigest()) == b"abc"


def test_an_upload_of_another_project_is_none(server: Any) -> None:
    address = _begin(server, 10)
    with server.sessions.begin() as session:
        session.execute(update(OpenUploadRow).values(project_id="other"))
    for answer in (
        server.client.get(address),
        server.client.head(address, headers=TUS),
        _patch(server, address, 0, b"x"),
        server.client.delete(address, headers=TUS),
    ):
        assert answer.status_code == 404
    assert _count(server.sessions, OpenUploadRow) == 1


@pytest.mark.parametrize(
    ("headers", "status", "text"),
    [
        ({}, 412, "Invalid TUS version"),
        ({"Tus-Resumable": "0.2"}, 412, "Invalid TUS version"),
        (TUS, 400, "Missing Upload-Length"),
        ({**TUS, "Upload-Length": "x"}, 400, "Invalid Upload-Length"),
        ({**TUS, "Upload-Length": "-1"}, 400, "must not be negative"),
        ({**TUS, "Upload-Length": "5"}, 400, "needs the kind model or dataset"),
        ({**TUS, "Upload-Length": "5", "Upload-Metadata": "kind !"}, 400, "Invalid base64"),
        ({**TUS, "Upload-Length": "5", "Upload-Metadata": _metadata(kind="plan")}, 400, "got 'plan'"),
        ({**TUS, "Upload-Length": "5", "Upload-Metadata": _metadata(kind="model", name="a\nb")}, 400, "control char"),
        ({**TUS, "Upload-Length": "0", "Upload-Metadata": _metadata(kind="model")}, 400, "above 0"),
        ({**TUS, "Upload-Defer-Length": "1", "Upload-Metadata": _metadata(kind="model")}, 400, "above 0"),
        ({**TUS, "Upload-Length": "2000001", "Upload-Metadata": _metadata(kind="dataset")}, 413, "MAX_DATASET_BYTES"),
        ({**TUS, "Upload-Length": "9000000", "Upload-Metadata": _metadata(kind="model")}, 413, "exceeds maximum"),
        ({**TUS, "Upload-Length": "5", "Upload-Concat": "partial"}, 400, "Concatenation"),
    ],
)
def test_what_cannot_begin_says_why(server: Any, headers: dict[str, str], status: int, text: str) -> None:
    answer = server.client.post("/v1/uploads", headers=headers)
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.status_code == status
    assert text in answer.json()["detail"]
    assert _count(server.sessions, OpenUploadRow) == 0


def test_what_cannot_go_on_says_why(server: Any) -> None:
    address = _begin(server, 5)
    for answer, status, text in (
        (_patch(server, address, 3, b"x"), 409, "Offset mismatch"),
        (_patch(server, address, 0, b"123456"), 400, "exceed declared upload length"),
        (server.client.patch(address, content=b"x", headers={**TUS, "Upload-Offset": "0"}), 415, "Content-Type"),
        (server.client.patch(address, content=b"x", headers=PIECE), 400, "Upload-Offset"),
        (_patch(server, address, 0, b"x", **{"Content-Encoding": "gzip"}), 415, "not compressed"),
        (_patch(server, address, 0, b"x", **{"Upload-Checksum": "sha1 eA=="}), 400, "checksum"),
        (_patch(server, "/v1/uploads/none", 0, b"x"), 400, "Invalid upload ID"),
        (_patch(server, address[:-4] + "0000", 0, b"x"), 404, "not found"),
        (server.client.get("/v1/uploads/a%00b"), 404, "no unfinished upload"),
    ):
        assert answer.status_code == status, answer.text
        assert text.lower() in answer.json()["detail"].lower()
    assert _offset(server, address) == 0


def test_a_project_has_a_bounded_number_of_unfinished_uploads(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resumable, "MOST_OPEN", 2)
    done = _begin(server, 3)
    _begin(server, 3)
    headers = {**TUS, "Upload-Length": "3", "Upload-Metadata": _metadata(kind="model")}
    answer = server.client.post("/v1/uploads", headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (429, "quota_exceeded")
    assert answer.headers["retry-after"]
    _patch(server, done, 0, b"abc")
    _begin(server, 3)


def test_the_protocol_is_described(server: Any) -> None:
    answer = server.client.options("/v1/uploads")
    assert answer.status_code == 204
    assert answer.headers["tus-extension"] == "creation,expiration,termination"
    assert (answer.headers["tus-version"], answer.headers["tus-max-size"]) == ("1.0.0", "3000000")
    assert "tus-checksum-algorithm" not in answer.headers

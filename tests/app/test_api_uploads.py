from __future__ import annotations

import hashlib
import io
import json
import os
import socket
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select

from app.settings import Settings
from app.store.blobs import read_bytes
from app.store.engine import Sessions
from app.store.tables import BlobChunkRow, BlobRow, JobRow, UploadRow
from app.store.uploads import upload_blob


def _counts(sessions: Sessions) -> dict[str, int]:
    with sessions.read() as session:
        return {
            table.__tablename__: session.scalars(select(func.count()).select_from(table)).one()
            for table in (BlobRow, BlobChunkRow, UploadRow, JobRow)
        }


NOTHING = {"blobs": 0, "blob_chunks": 0, "uploads": 0, "jobs": 0}


def _files(settings: Settings) -> list[Path]:
    return [path for path in settings.home.rglob("*") if path.is_file() and "bitbudget.db" not in path.name]


def _chunked(data: bytes, size: int = 10_000) -> Iterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


@pytest.mark.parametrize("kind", ["model", "dataset"])
def test_an_upload_is_stored_under_its_digest(server: Any, kind: str) -> None:
    data = os.urandom(1_500_000)
    digest = hashlib.sha256(data).hexdigest()
    answer = server.client.put(f"/v1/{kind}s", params={"name": "réseau 1.onnx"}, content=data)
    assert answer.status_code == 201
    shown = {"id": digest, "name": "réseau 1.onnx", "size_bytes": len(data), "sha256": digest}
    assert answer.json() == answer.json() | shown
    with server.sessions.read() as session:
        blob = upload_blob(session, kind, digest)
    assert blob is not None
    assert read_bytes(server.sessions, blob) == data


def test_a_model_in_parts_is_one_upload_of_an_archive(server: Any) -> None:
    def put(*parts: tuple[str, tuple[str, bytes]]) -> Any:
        return server.client.put("/v1/models?name=net", files=list(parts))

    model, first, second = ("model", ("n.onnx", b"M")), ("a", ("w.data", b"W")), ("a", ("sub/b.data", b"B"))
    answer = put(model, first, second)
    assert answer.status_code == 201
    with server.sessions.read() as session:
        blob = upload_blob(session, "model", answer.json()["id"])
    assert blob is not None
    with zipfile.ZipFile(io.BytesIO(read_bytes(server.sessions, blob))) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    assert files == {"model.onnx": b"M", "w.data": b"W", "sub/b.data": b"B"}
    assert put(second, first, model).json()["id"] == answer.json()["id"], "in any order"
    assert put(model).json()["id"] == hashlib.sha256(b"M").hexdigest(), "a model alone is the file itself"
    for parts, says in (
        ([first], "expected one part called model"),
        ([model, model], "got 2"),
        ([model, first, first], "two parts are files called 'w.data'"),
        ([model, ("b", ("model.onnx", b"W"))], "two parts are files called 'model.onnx'"),
    ):
        refused = put(*parts)
        assert (refused.status_code, refused.json()["code"]) == (400, "request_malformed")
        assert says in refused.json()["detail"]
    large = put(model, ("a", ("w.data", bytes(server.settings.max_model_bytes + 1))))
    assert (large.status_code, large.json()["code"]) == (413, "payload_too_large")


def test_the_same_contents_are_the_same_upload_whatever_they_are_called(server: Any) -> None:
    first = server.client.put("/v1/models", content=b"abc")
    assert (first.status_code, first.json()["name"]) == (201, first.json()["id"][:12])
    named = server.client.put("/v1/models?name=resnet", content=b"abc")
    assert (named.status_code, named.json()["name"]) == (200, "resnet")
    again = server.client.put("/v1/models", content=_chunked(b"abc", 1))
    assert (again.status_code, again.json()) == (200, named.json() | {"used_at": again.json()["used_at"]})
    data = server.client.put("/v1/datasets", content=b"abc")
    assert data.status_code == 201, "a dataset with the same contents is another upload"
    assert _counts(server.sessions) == {"blobs": 1, "blob_chunks": 1, "uploads": 2, "jobs": 0}


def test_the_same_upload_from_many_clients_at_once(server: Any) -> None:
    data = os.urandom(2_500_000)
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda _: server.client.put("/v1/models", content=data), range(6)))
    assert sorted(answer.status_code for answer in answers) == [200] * 5 + [201]
    assert _counts(server.sessions) == {"blobs": 1, "blob_chunks": 3, "uploads": 1, "jobs": 0}


def test_a_body_that_announces_too_much_is_refused_unread(server: Any) -> None:
    limit = server.settings.max_model_bytes
    with socket.create_connection(("127.0.0.1", server.port), timeout=120) as connection:
        head = f"PUT /v1/models HTTP/1.1\r\nHost: [::1]\r\nContent-Length: {limit + 1}\r\nExpect: 100-continue\r\n\r\n"
        connection.sendall(head.encode())
        answer = ""
        while not answer.endswith("}"):
            answer += connection.recv(65536).decode()
    assert answer.startswith("HTTP/1.1 413"), "a 100 would be the permission to send"
    assert "application/problem+json" in answer
    problem = json.loads(answer.partition("\r\n\r\n")[2])
    assert problem["code"] == "payload_too_large"
    assert problem["detail"] == (
        f"the body may have at most {limit} bytes, got {limit + 1} bytes; whoever runs the service can "
        "raise BITBUDGET_MAX_MODEL_BYTES"
    )


def test_a_body_that_does_not_announce_its_size_is_cut_off_at_the_limit(server: Any) -> None:
    limit = server.settings.max_dataset_bytes
    answer = server.client.put("/v1/datasets", content=_chunked(bytes(5 * limit)))
    assert answer.status_code == 413
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["detail"].startswith(f"the body may have at most {limit} bytes, got more than that")
    assert "BITBUDGET_MAX_DATASET_BYTES" in answer.json()["detail"]
    assert _counts(server.sessions) == NOTHING
    assert _files(server.settings) == []


def test_the_largest_body_that_is_allowed_is_taken(server: Any) -> None:
    data = bytes(server.settings.max_dataset_bytes)
    assert server.client.put("/v1/datasets", content=data).status_code == 201
    assert server.client.put("/v1/datasets", content=_chunked(data)).status_code == 200


def test_the_limit_of_all_bodies_holds_for_uploads_too(serve: Callable[..., Any], settings: Settings) -> None:
    server = serve(settings.model_copy(update={"max_upload_bytes": 1000}))
    answer = server.client.put("/v1/models", content=bytes(1001))
    assert answer.status_code == 413
    assert (
        "at most 1000 bytes, got 1001 bytes; whoever runs the service can raise BITBUDGET_MAX_UPLOAD_BYTES"
        in (answer.json()["detail"])
    )


def test_an_empty_body_is_refused(server: Any) -> None:
    answer = server.client.put("/v1/models", content=b"")
    assert (answer.status_code, answer.json()["code"]) == (400, "request_malformed")
    assert answer.json()["detail"] == "the body is empty; send the file itself, e.g. curl -T FILE"
    assert _counts(server.sessions) == NOTHING


@pytest.mark.parametrize("name", ["", "x" * 256, "a\nb", "a\x00b"])
def test_names_that_cannot_be_shown_are_refused(server: Any, name: str) -> None:
    answer = server.client.put("/v1/models", params={"name": name}, content=b"abc")
    assert (answer.status_code, answer.json()["code"]) == (422, "request_invalid")
    assert answer.json()["errors"][0]["field"] == "name"
    assert _counts(server.sessions) == NOTHING


@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("target", ["/v1/models", "/v1/datasets"])
def test_a_client_that_hangs_up_half_way_leaves_nothing(
    server: Any, wait_until: Callable[..., None], target: str, framing: str
) -> None:
    head = f"PUT {target} HTTP/1.1\r\nHost: localhost\r\n"
    part = os.urandom(700_000)
    with socket.create_connection(("127.0.0.1", server.port), timeout=120) as connection:
        if framing == "length":
            connection.sendall(f"{head}Content-Length: 1400000\r\n\r\n".encode() + part)
        else:
            connection.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n{len(part):x}\r\n".encode() + part + b"\r\n")
        wait_until(lambda: _open_files(server.settings.tmp_dir))
    wait_until(lambda: not _open_files(server.settings.tmp_dir))
    assert _counts(server.sessions) == NOTHING
    assert _files(server.settings) == []
    assert server.client.get("/healthz").status_code == 200


def test_a_multipart_client_that_hangs_up_leaves_nothing(
    server: Any, wait_until: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = tmp_path / "spool"
    spool.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(spool))
    body = (
        b'--b\r\nContent-Disposition: form-data; name="model"; filename="m.onnx"\r\n\r\n'
        + os.urandom(1_500_000)
        + b'\r\n--b\r\nContent-Disposition: form-data; name="dataset"; filename="d.npz"\r\n\r\n'
    )
    with socket.create_connection(("127.0.0.1", server.port), timeout=120) as connection:
        connection.sendall(
            b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=b\r\n"
            b"Content-Length: 3000000\r\n\r\n" + body
        )
        wait_until(lambda: _open_files(spool))
    wait_until(lambda: not _open_files(spool))
    assert _counts(server.sessions) == NOTHING
    assert server.wakes == []


def _open_files(folder: Path) -> list[str]:
    """Files under `folder` that this process, which is the server's, has open."""
    links = []
    for path in Path("/proc/self/fd").iterdir():
        try:
            links.append(os.readlink(path))
        except FileNotFoundError:
            continue
    return [link for link in links if link.startswith(f"{folder}/")]


def _post(server: Any, **parts: Any) -> Any:
    files = {name: part if isinstance(part, tuple) else (None, part) for name, part in parts.items()}
    return server.client.post("/v1/jobs", files=files)


def test_one_call_uploads_and_submits(server: Any) -> None:
    answer = _post(
        server,
        model=("net.onnx", b"model"),
        dataset=("data.npz", b"data"),
        request='{"budget": {"metric": "top1", "max_drop": 0.02}}',
    )
    assert answer.status_code == 202, answer.text
    job = answer.json()
    assert job["model_id"] == hashlib.sha256(b"model").hexdigest()
    assert job["dataset_id"] == hashlib.sha256(b"data").hexdigest()
    assert job["request"]["budget"]["max_drop"] == 0.02
    assert len(server.wakes) == 1
    assert server.client.put("/v1/models", content=b"model").json()["name"] == "net.onnx"


def test_a_metric_graph_comes_as_a_part_and_is_uploaded_as_a_model(server: Any) -> None:
    answer = _post(server, model=("m", b"model"), metric=("iou.onnx", b"graph"), request='{"budget": {"max_drop": 2}}')
    assert answer.status_code == 202, answer.text
    budget = answer.json()["request"]["budget"]
    assert (budget["metric_id"], budget["metric"], budget["max_drop"]) == (
        hashlib.sha256(b"graph").hexdigest(),
        None,
        2,
    )
    assert server.client.put("/v1/models", content=b"graph").json()["name"] == "iou.onnx"


def test_a_metric_graph_that_was_never_sent_is_named(server: Any) -> None:
    model_id = server.client.put("/v1/models", content=b"model").json()["id"]
    request = {"model_id": model_id, "budget": {"metric_id": "0" * 64}}
    answer = server.client.post("/v1/jobs", json=request)
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    assert answer.json()["detail"] == f"no metric has the id {'0' * 64}; upload it with PUT /v1/models"


def test_one_call_needs_only_a_model(server: Any) -> None:
    job = _post(server, model=("m", b"model")).json()
    assert job["request"] == server.submit(model_id=job["model_id"])["request"]


def test_the_request_may_be_a_file_too(server: Any) -> None:
    answer = _post(server, model=("m", b"model"), request=("request.json", b'{"seed": 7}', "application/json"))
    assert answer.json()["request"]["seed"] == 7


@pytest.mark.parametrize(
    ("parts", "status", "text"),
    [
        ({"request": "{}"}, 400, "the part model is missing; send it as a file: curl -F model=@FILE"),
        ({"model": "text"}, 400, "the part model must be a file: curl -F model=@FILE"),
        ({"model": ("m", b"")}, 400, "the part model is empty"),
        ({"model": ("m", b"x"), "data": ("d", b"x")}, 400, "the parts are model, dataset, metric and request, each at"),
        ({"model": ("m", b"x"), "request": "{"}, 400, "the body is not JSON"),
        (
            {"model": ("m", b"x"), "request": '{"model_id": "x"}'},
            422,
            "model_id come from the parts model, dataset and",
        ),
        (
            {"model": ("m", b"x"), "metric": ("g", b"y"), "request": '{"budget": {"metric_id": "' + "0" * 64 + '"}}'},
            422,
            "budget.metric_id come from the parts model, dataset and metric",
        ),
        (
            {"model": ("m", b"x"), "metric": ("g", b"y"), "request": '{"budget": {"metric": "kl"}}'},
            422,
            "metric_id is a metric of your own, and metric names kl, too",
        ),
        (
            {"model": ("m", b"x"), "metric": ("g", b"y"), "request": '{"budget": {"options": {"k": 3}}}'},
            422,
            "a metric of your own takes the option higher_is_better alone, got k",
        ),
        ({"model": ("m", b"x"), "metric": ("g", b"y"), "request": '{"budget": 3}'}, 422, "budget"),
        ({"model": ("m", b"x"), "request": '{"budget": {"max_drop": 5}}'}, 422, "5 percent: send 0.05"),
        ({"model": ("m", b"x"), "dataset": ("d", bytes(2_000_001))}, 413, "raise BITBUDGET_MAX_DATASET_BYTES"),
        ({"model": ("m", bytes(4_000_001))}, 413, "raise BITBUDGET_MAX_UPLOAD_BYTES"),
        ({"model": ("m", b"x"), "request": "x" * 1_100_000}, 400, "Part exceeded maximum size of 1024KB"),
        ({"model": ("m", b"x"), "request": ("r", b" " * 1_100_000)}, 413, "the part request may have at most 1048576"),
    ],
)
def test_a_wrong_multipart_request_stores_nothing(server: Any, parts: dict[str, Any], status: int, text: str) -> None:
    answer = _post(server, **parts)
    assert answer.headers["content-type"] == "application/problem+json"
    assert text in answer.json()["detail"]
    assert answer.status_code == status
    assert _counts(server.sessions) == NOTHING


def test_a_part_that_comes_twice_is_refused(server: Any) -> None:
    answer = server.client.post("/v1/jobs", files=[("model", ("a", b"1")), ("model", ("b", b"2"))])
    assert "each at most once; got model" in answer.json()["detail"]


def test_multipart_without_a_boundary_or_end_is_malformed(server: Any) -> None:
    for content_type in ("multipart/form-data", "multipart/form-data; boundary=b"):
        answer = server.client.post("/v1/jobs", content=b"--x", headers={"Content-Type": content_type})
        assert (answer.status_code, answer.json()["code"]) == (400, "request_malformed"), content_type

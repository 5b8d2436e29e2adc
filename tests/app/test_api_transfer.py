"""How bytes travel: parts of downloads, HEAD, compression both ways."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import httpx
import pytest
from sqlalchemy import Engine, event

from app.api.compression import MOST_EXPANSION
from app.lifecycle import claims
from app.lifecycle.states import Artifact, Outcome
from app.store.blobs import CHUNK_BYTES, write_bytes

MODEL = os.urandom(2 * CHUNK_BYTES + 1000)
PLAN = json.dumps({"layers": [{"name": f"layer {number}", "bits": 4} for number in range(100)]}).encode()


@pytest.fixture
def job(server: Any) -> str:
    job_id: str = server.submit()["id"]
    claim = claims.claim_next(server.sessions, "worker", timedelta(seconds=30))
    assert claim is not None
    stored = {
        "model": Artifact(write_bytes(server.sessions, MODEL), "application/octet-stream"),
        "plan": Artifact(write_bytes(server.sessions, PLAN), "application/json"),
    }
    assert claims.finish(server.sessions, claim, Outcome.MET, {}, stored)
    return f"/v1/jobs/{job_id}"


@contextmanager
def _reads_of_contents() -> Iterator[list[str]]:
    reads: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if "blob_chunks" in statement:
            reads.append(statement)

    event.listen(Engine, "before_cursor_execute", note)
    try:
        yield reads
    finally:
        event.remove(Engine, "before_cursor_execute", note)


@pytest.mark.parametrize(
    ("asked", "start", "stop"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=100-", 100, len(MODEL)),
        ("bytes=-5", len(MODEL) - 5, len(MODEL)),
        ("bytes=-99999999", 0, len(MODEL)),
        (f"bytes={CHUNK_BYTES - 1}-{CHUNK_BYTES}", CHUNK_BYTES - 1, CHUNK_BYTES + 1),
        (f"BYTES={2 * CHUNK_BYTES + 1}-99999999999", 2 * CHUNK_BYTES + 1, len(MODEL)),
    ],
)
def test_a_range_is_the_part_that_was_asked_for(server: Any, job: str, asked: str, start: int, stop: int) -> None:
    answer = server.client.get(f"{job}/model.onnx", headers={"Range": asked})
    assert answer.status_code == 206
    assert answer.content == MODEL[start:stop]
    assert answer.headers["content-range"] == f"bytes {start}-{stop - 1}/{len(MODEL)}"
    assert answer.headers["content-length"] == str(stop - start)
    assert answer.headers["etag"] == f'"{hashlib.sha256(MODEL).hexdigest()}"'


def test_a_range_reads_the_chunks_that_it_lies_in(server: Any, job: str) -> None:
    with _reads_of_contents() as reads:
        server.client.get(f"{job}/model.onnx", headers={"Range": f"bytes={2 * CHUNK_BYTES}-"})
    assert len(reads) == 1


@pytest.mark.parametrize("asked", ["bytes=5-4", "bytes=-", "bytes=x-", "bytes=0-1,4-5", "lines=0-1", "bytes 0-1"])
def test_what_is_not_one_range_is_answered_with_all(server: Any, job: str, asked: str) -> None:
    answer = server.client.get(f"{job}/model.onnx", headers={"Range": asked})
    assert (answer.status_code, answer.content) == (200, MODEL)
    assert answer.headers["accept-ranges"] == "bytes"


@pytest.mark.parametrize("asked", [f"bytes={len(MODEL)}-", f"bytes={len(MODEL)}-{len(MODEL)}", "bytes=-0"])
def test_a_range_behind_the_end_is_told_the_size(server: Any, job: str, asked: str) -> None:
    answer = server.client.get(f"{job}/model.onnx", headers={"Range": asked})
    assert (answer.status_code, answer.json()["code"]) == (416, "range_unsatisfiable")
    assert answer.headers["content-range"] == f"bytes */{len(MODEL)}"


def test_a_download_goes_on_only_where_the_contents_are_the_same(server: Any, job: str) -> None:
    tag = f'"{hashlib.sha256(MODEL).hexdigest()}"'
    for known, status in ((tag, 206), ('"other"', 200), (f"W/{tag}", 200), ("Sun, 06 Nov 1994 08:49:37 GMT", 200)):
        answer = server.client.get(f"{job}/model.onnx", headers={"Range": "bytes=10-", "If-Range": known})
        assert answer.status_code == status
    unchanged = server.client.get(f"{job}/model.onnx", headers={"Range": "bytes=10-", "If-None-Match": tag})
    assert unchanged.status_code == 304


def test_head_is_get_without_its_body_and_reads_no_contents(server: Any, job: str) -> None:
    with _reads_of_contents() as reads:
        head = server.client.head(f"{job}/model.onnx", headers={"Range": "bytes=0-1"})
        assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", str(len(MODEL)))
        assert server.client.head(f"{job}/plan").headers["etag"] == f'"{hashlib.sha256(PLAN).hexdigest()}"'
        assert server.client.get(f"{job}/plan", headers={"If-None-Match": "*"}).status_code == 304
    assert reads == []
    for address in ("/healthz", "/v1/jobs", job, "/v1/schemas/plan-1.json", f"{job}/plan?format=csv", "/v1/nothing"):
        get, head = server.client.get(address), server.client.head(address)
        assert (head.status_code, head.content) == (get.status_code, b"")
        assert head.headers["content-type"] == get.headers["content-type"]
    for endless in (f"{job}/events", f"{job.removeprefix('/v1')}/live"):
        refused = server.client.head(endless)
        assert (refused.status_code, refused.headers["allow"]) == (405, "GET")
    metric = 'bitbudget_http_requests_total{method="HEAD",route="/v1/jobs/{job_id}/plan",status="200"} 2.0'
    assert metric in server.client.get("/metrics").text


def test_answers_are_compressed_for_who_takes_it(server: Any, job: str) -> None:
    plain = server.client.get(f"{job}/plan", headers={"Accept-Encoding": "identity"})
    packed = server.client.get(f"{job}/plan", headers={"Accept-Encoding": "gzip"})
    assert "content-encoding" not in plain.headers
    assert packed.headers["content-encoding"] == "gzip"
    assert packed.content == plain.content == PLAN
    assert int(packed.headers["content-length"]) < len(PLAN) // 4
    assert "accept-encoding" in packed.headers["vary"].lower()
    assert packed.headers["etag"] == f"W/{plain.headers['etag']}"
    known = server.client.get(f"{job}/plan", headers={"If-None-Match": packed.headers["etag"]})
    assert known.status_code == 304
    refused = server.client.get(f"{job}/plan", headers={"Accept-Encoding": "gzip;q=0, identity"})
    assert "content-encoding" not in refused.headers
    part = server.client.get(f"{job}/plan", headers={"Accept-Encoding": "gzip", "Range": "bytes=0-1999"})
    assert (part.status_code, "content-encoding" in part.headers, part.content) == (206, False, PLAN[:2000])


def test_small_answers_networks_and_events_are_sent_as_they_are(server: Any, job: str) -> None:
    for address in ("/healthz", f"{job}/model.onnx", f"{job}/events"):
        answer = server.client.get(address, headers={"Accept-Encoding": "gzip"})
        assert answer.status_code == 200
        assert "content-encoding" not in answer.headers


@pytest.mark.parametrize("members", [1, 3])
def test_a_compressed_body_is_stored_as_what_it_becomes(server: Any, members: int) -> None:
    data = os.urandom(100_000) + bytes(1_000_000) + os.urandom(100_001)
    step = -(-len(data) // members)
    body = b"".join(gzip.compress(data[start : start + step]) for start in range(0, len(data), step))
    answer = server.client.put("/v1/models", content=body, headers={"Content-Encoding": "gzip"})
    assert (answer.status_code, answer.json()["id"]) == (201, hashlib.sha256(data).hexdigest())
    assert answer.json()["size_bytes"] == len(data)
    request = gzip.compress(json.dumps({"model_id": answer.json()["id"]}).encode())
    headers = {"Content-Encoding": "gzip", "Content-Type": "application/json"}
    assert server.client.post("/v1/jobs", content=request, headers=headers).status_code == 202


def test_a_body_that_grows_without_bounds_is_cut_off(server: Any) -> None:
    def put(kind: str, body: bytes, encoding: str = "gzip") -> httpx.Response:
        answer: httpx.Response = server.client.put(f"/v1/{kind}", content=body, headers={"Content-Encoding": encoding})
        return answer

    limit = server.settings.max_dataset_bytes
    large = put("datasets", gzip.compress(os.urandom(limit // 2) + bytes(limit)))
    assert (large.status_code, large.json()["code"]) == (413, "payload_too_large")
    assert f"at most {limit} bytes" in large.json()["detail"]
    bomb = put("models", gzip.compress(bytes(2_900_000)))
    assert (bomb.status_code, bomb.json()["code"]) == (413, "payload_too_large")
    assert f"more than {MOST_EXPANSION} times" in bomb.json()["detail"]
    whole = gzip.compress(os.urandom(50_000))
    for wrong, says in (
        (whole[:-9], "ends before"),
        (b"not gzip", "is not gzip"),
        (zlib.compress(b"x"), "is not gzip"),
    ):
        refused = put("models", wrong)
        assert (refused.status_code, refused.json()["code"]) == (400, "request_malformed")
        assert says in refused.json()["detail"]
    other = put("models", b"x", "br")
    assert (other.status_code, other.json()["code"], other.headers["accept-encoding"]) == (
        415,
        "media_type_unsupported",
        "gzip",
    )
    assert server.client.get("/v1/models").json()["uploads"] == []

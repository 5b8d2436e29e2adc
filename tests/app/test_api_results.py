from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import threading
from typing import Any

import httpx
import pytest
from sqlalchemy import update

from app.lifecycle import claims
from app.lifecycle.states import Outcome, Progress
from app.store.tables import BlobChunkRow
from tests.app.claiming import claim_job
from tests.app.finishing import LEASE, finished

PLAN = {
    "layers": [
        {"name": "conv1", "op_type": "Conv", "bits": 4, "format": "int4/channel", "bytes": 120, "damage": 0.5},
        {"name": 'a "b",\n c', "op_type": "Gemm", "bits": 32, "format": "float32", "tied": ["x", "y"], "keep": True},
        {"name": "fc", "bits": None},
    ]
}


_LAYER = {"name": "conv1", "format": "int4/channel"}


def test_the_model_is_streamed_with_its_digest_as_etag(server: Any) -> None:
    data = os.urandom(2_500_000)
    address = f"/v1/jobs/{finished(server, model=data)}/model.onnx"
    answer = server.client.get(address)
    assert answer.status_code == 200
    assert answer.content == data
    assert answer.headers["content-length"] == str(len(data))
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["content-disposition"] == 'attachment; filename="model.onnx"'
    etag = f'"{hashlib.sha256(data).hexdigest()}"'
    assert answer.headers["etag"] == etag
    for known in (etag, f"W/{etag}", f'"other", {etag}', "*"):
        unchanged = server.client.get(address, headers={"If-None-Match": known})
        assert (unchanged.status_code, unchanged.content, unchanged.headers["etag"]) == (304, b"", etag)
    assert server.client.get(address, headers={"If-None-Match": '"other"'}).status_code == 200


@pytest.mark.parametrize("kind", ["plan", "frontier", "sensitivity"])
def test_reports_are_what_the_worker_wrote(server: Any, kind: str) -> None:
    text = json.dumps(PLAN).encode()
    answer = server.client.get(f"/v1/jobs/{finished(server, **{kind: text})}/{kind}")
    assert (answer.status_code, answer.content) == (200, text)
    assert answer.headers["content-type"] == "application/json"


def test_the_plan_as_csv_has_a_row_for_each_layer(server: Any) -> None:
    answer = server.client.get(f"/v1/jobs/{finished(server, plan=json.dumps(PLAN).encode())}/plan?format=csv")
    assert answer.headers["content-type"] == "text/csv; header=present; charset=utf-8"
    rows = list(csv.DictReader(io.StringIO(answer.text, newline="")))
    assert list(rows[0]) == ["name", "op_type", "bits", "format", "bytes", "damage", "tied", "keep"]
    assert [row["name"] for row in rows] == ["conv1", 'a "b",\n c', "fc"]
    assert [row["bits"] for row in rows] == ["4", "32", ""]
    assert (rows[0]["damage"], rows[1]["tied"], rows[1]["keep"], rows[2]["format"]) == ("0.5", '["x", "y"]', "true", "")


def test_names_that_are_formulas_are_texts_in_the_csv_and_numbers_are_numbers(server: Any) -> None:
    names = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "a=1", "1-1", ""]
    layers = [{"name": name, "damage": -0.5, "weights": 3, "nodes": [name]} for name in names]
    answer = server.client.get(
        f"/v1/jobs/{finished(server, plan=json.dumps({'layers': layers}).encode())}/plan?format=csv"
    )
    rows = list(csv.DictReader(io.StringIO(answer.text, newline="")))
    assert [row["name"] for row in rows] == [f"'{name}" for name in names[:7]] + names[7:]
    assert {(row["damage"], row["weights"]) for row in rows} == {("-0.5", "3")}
    assert [json.loads(row["nodes"]) for row in rows] == [[name] for name in names]


def test_the_plan_as_a_table_has_the_widths_alone(server: Any) -> None:
    layers = [
        {"name": "conv1", "bits": 4, "input_bits": 8, "bytes": 7},
        {"name": "=fc", "bits": 32, "input_bits": 32},
        {"name": "of an older version", "bits": 8},
    ]
    answer = server.client.get(
        f"/v1/jobs/{finished(server, plan=json.dumps({'layers': layers}).encode())}/plan?format=table"
    )
    assert answer.headers["content-type"] == "text/csv; header=present; charset=utf-8"
    assert answer.text.splitlines() == [
        "layer,weight_bits,activation_bits",
        "conv1,4,8",
        "'=fc,32,32",
        "of an older version,8,",
    ]


@pytest.mark.parametrize("kind", ["ort", "aimet"])
def test_the_plan_for_other_tools_is_what_the_worker_wrote(server: Any, kind: str) -> None:
    text = b'{"notes": []}'
    job_id = finished(server, plan=b"{}", **{kind: text})
    answer = server.client.get(f"/v1/jobs/{job_id}/plan?format={kind}")
    assert (answer.status_code, answer.content, answer.headers["content-type"]) == (200, text, "application/json")
    assert answer.headers["etag"] == f'"{hashlib.sha256(text).hexdigest()}"'
    missing = server.client.get(f"/v1/jobs/{finished(server, plan=b'{}')}/plan?format={kind}")
    assert (missing.status_code, missing.json()["code"]) == (404, "artifact_missing")
    assert f"made no {kind}; to make it, POST {{}}" in missing.json()["detail"]


def test_a_job_that_applied_a_plan_says_why_it_has_no_frontier(server: Any) -> None:
    job_id = finished(server, plan=b"{}", request={"plan": {"version": 1, "layers": [_LAYER]}})
    for kind in ("frontier", "sensitivity"):
        answer = server.client.get(f"/v1/jobs/{job_id}/{kind}")
        assert (answer.status_code, answer.json()["code"]) == (404, "artifact_missing")
        assert f"applied the plan of its request, so that there was no search and there is no {kind}" in answer.text


def test_the_schema_of_a_plan_is_served(server: Any) -> None:
    answer = server.client.get("/v1/schemas/plan-1.json")
    assert answer.headers["content-type"] == "application/schema+json"
    assert answer.json()["properties"]["version"] == {"const": 1}


@pytest.mark.parametrize("path", ["plan", "plan?format=csv", "frontier", "sensitivity", "model.onnx"])
def test_results_that_are_not_there_say_why(server: Any, path: str) -> None:
    job_id = server.submit()["id"]
    address = f"/v1/jobs/{job_id}/{path}"
    answer = server.client.get(address)
    assert (answer.status_code, answer.json()["code"]) == (409, "job_not_finished")
    assert f"the job {job_id} is queued and has no" in answer.json()["detail"]
    assert f"GET /v1/jobs/{job_id}/events" in answer.json()["detail"]
    claim = claim_job(server.sessions, job_id, "worker", LEASE)
    assert claim is not None
    assert "is running" in server.client.get(address).json()["detail"]
    claims.fail(server.sessions, claim, "model_invalid", "x")
    answer = server.client.get(address)
    assert (answer.status_code, answer.json()["code"]) == (404, "artifact_missing")
    assert f"the job {job_id} has failed (model_invalid) without a" in answer.json()["detail"]
    assert server.client.get(address.replace(job_id, "0" * 32)).json()["code"] == "not_found"


def test_a_format_that_nobody_has_is_refused(server: Any) -> None:
    answer = server.client.get(f"/v1/jobs/{'0' * 32}/plan?format=xml")
    assert answer.json()["detail"] == "format: Input should be 'json', 'csv', 'table', 'ort' or 'aimet', got \"xml\""


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_damaged_model_breaks_off_and_never_looks_complete(server: Any) -> None:
    data = os.urandom(1_500_000)
    job_id = finished(server, model=data)
    with server.sessions.begin() as session:
        session.execute(update(BlobChunkRow).where(BlobChunkRow.seq == 1).values(data=b"damaged"))
    with pytest.raises(httpx.RemoteProtocolError, match=r"closed connection|incomplete"):
        server.client.get(f"/v1/jobs/{job_id}/model.onnx")


def _parse(text: str) -> list[tuple[int | None, str, dict[str, Any]]]:
    events = []
    for block in text.strip().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if fields:
            number = int(fields["id"]) if "id" in fields else None
            events.append((number, fields["event"], json.loads(fields["data"])))
    return events


def test_events_tell_the_whole_story_and_end_with_the_job(server: Any, wait_until: Any) -> None:
    job_id = server.submit()["id"]
    text: list[str] = []

    def watch() -> None:
        with server.client.stream("GET", f"/v1/jobs/{job_id}/events") as answer:
            text.append(answer.headers["content-type"])
            text.extend(answer.iter_text())

    watcher = threading.Thread(target=watch)
    watcher.start()
    claim = claim_job(server.sessions, job_id, "worker", LEASE)
    assert claim is not None
    for step, stage in enumerate(("admit", "sensitivity")):
        claims.heartbeat(server.sessions, claim, LEASE, Progress(stage, step / 4, 9.0))
        wait_until(lambda: f'"stage": "{stage}", "progress"' in "".join(text))  # noqa: B023 - not kept
    claims.record_event(server.sessions, claim, "plan", {"size_bytes": 7})
    claims.finish(server.sessions, claim, Outcome.NOT_MET, {}, {})
    watcher.join()
    assert text[0] == "text/event-stream; charset=utf-8"
    events = _parse("".join(text[1:]))
    numbered = [(number, kind) for number, kind, _ in events if number is not None]
    assert numbered == [(1, "state"), (2, "state"), (3, "stage"), (4, "stage"), (5, "plan"), (6, "state")]
    progress = [data for number, kind, data in events if kind == "progress"]
    assert {"stage": "sensitivity", "progress": 0.25, "eta_seconds": 9.0} in progress
    assert progress[-1] == {"stage": "sensitivity", "progress": 1.0, "eta_seconds": None}
    assert events[-1][2] == {"stage": "sensitivity", "progress": 1.0, "eta_seconds": None}
    last = next(data for number, _, data in events if number == 6)
    assert (last["state"], last["outcome"]) == ("succeeded", "not_met")


def test_who_reconnects_gets_what_was_missed(server: Any) -> None:
    job_id = finished(server)
    everything = _parse(server.client.get(f"/v1/jobs/{job_id}/events").text)
    assert [number for number, _, _ in everything] == [1, 2, 3]
    missed = server.client.get(f"/v1/jobs/{job_id}/events", headers={"Last-Event-ID": "2"})
    assert _parse(missed.text) == everything[2:]
    answer = server.client.get(f"/v1/jobs/{job_id}/events", headers={"Last-Event-ID": "x"})
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "Last-Event-ID")
    assert server.client.get(f"/v1/jobs/{'0' * 32}/events").status_code == 404


def test_a_watcher_that_goes_away_is_let_go(server: Any, wait_until: Any) -> None:
    job_id = server.submit()["id"]
    with server.client.stream("GET", f"/v1/jobs/{job_id}/events") as answer:
        next(answer.iter_text())
    # The stream counts as a request when it ends.
    metric = 'bitbudget_http_requests_total{method="GET",route="/v1/jobs/{job_id}/events",status="200"} 1.0'
    wait_until(lambda: metric in server.client.get("/metrics").text)

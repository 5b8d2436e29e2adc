from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from app.api import health, uploads
from app.lifecycle import presence
from app.settings import Settings
from app.store.engine import Sessions

PROBLEM = "application/problem+json"


def test_alive_without_a_database(serve: Callable[..., Any], settings: Settings, tmp_path: Path) -> None:
    away = settings.model_copy(update={"database_url": f"sqlite:///{tmp_path / 'no' / 'where.db'}"})
    server = serve(away)
    assert server.client.get("/healthz").json() == {"status": "ok"}
    for method, path in (("GET", "/readyz"), ("GET", "/v1/jobs"), ("PUT", "/v1/models")):
        answer = server.client.request(method, path, content=b"x")
        assert (answer.status_code, answer.json()["code"]) == (503, "database_unavailable")
        assert "repeat the request in a moment" in answer.json()["detail"]
        assert answer.headers["content-type"] == PROBLEM
        assert answer.headers["retry-after"] == "5"
    metrics = server.client.get("/metrics").text
    assert "bitbudget_database_up 0.0" in metrics
    assert "bitbudget_jobs" not in metrics


def test_a_database_without_the_schema_says_what_to_run(server: Any, sessions: Sessions) -> None:
    with sessions.begin() as session:
        session.execute(text("ALTER TABLE workers RENAME TO elsewhere"))
    answer = server.client.get("/readyz")
    assert (answer.status_code, answer.json()["code"]) == (503, "database_unavailable")
    assert answer.json()["detail"].endswith("run: bitbudget migrate")


def test_ready_once_a_worker_was_seen(server: Any, sessions: Sessions) -> None:
    answer = server.client.get("/readyz")
    assert (answer.status_code, answer.json()["code"]) == (503, "not_ready")
    assert answer.json()["detail"].endswith("jobs are accepted and wait. Start one: bitbudget worker")
    assert (answer.json()["workers"], answer.json()["oldest_queued_seconds"]) == (0, None)
    presence.seen(sessions, "worker")
    server.submit()
    answer = server.client.get("/readyz")
    assert answer.status_code == 200
    assert answer.json()["workers"] == 1
    assert 0 <= answer.json()["oldest_queued_seconds"] < 30


def test_metrics_show_the_queue_and_the_requests(server: Any, sessions: Sessions) -> None:
    presence.seen(sessions, "worker")
    job = server.submit()
    server.submit()
    server.client.post(f"/v1/jobs/{job['id']}/cancel")
    server.client.request("BREW", "/v1/jobs")
    answer = server.client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    lines = set(answer.text.splitlines())
    assert {
        "bitbudget_database_up 1.0",
        'bitbudget_jobs{state="queued"} 1.0',
        'bitbudget_jobs{state="cancelled"} 1.0',
        'bitbudget_jobs{state="failed"} 0.0',
        'bitbudget_workers{state="idle"} 1.0',
        'bitbudget_http_requests_total{method="POST",route="/v1/jobs",status="202"} 2.0',
        'bitbudget_http_requests_total{method="POST",route="/v1/jobs/{job_id}/cancel",status="202"} 1.0',
        'bitbudget_http_requests_total{method="other",route="/v1/jobs",status="405"} 1.0',
    } <= lines
    assert any(line.startswith("bitbudget_oldest_queued_job_seconds ") for line in lines)


def test_every_error_is_a_problem(server: Any) -> None:
    cases = [
        ("GET", "/nowhere", 404, "not_found", "there is nothing at /nowhere; /docs lists every address"),
        ("POST", "/v1/models", 405, "method_not_allowed", "does not answer POST; it answers GET, HEAD, PUT"),
        (
            "DELETE",
            "/v1/jobs",
            405,
            "method_not_allowed",
            "/v1/jobs does not answer DELETE; it answers GET, HEAD, POST",
        ),
        ("POST", "/v1/jobs", 415, "media_type_unsupported", "expected a body of type application/json, got"),
        ("GET", "/v1/jobs?limit=1000", 422, "request_invalid", "less than or equal to 200"),
    ]
    for method, path, status, code, detail in cases:
        answer = server.client.request(method, path)
        assert answer.headers["content-type"] == PROBLEM
        body = answer.json()
        assert (answer.status_code, body["status"], body["code"]) == (status, status, code)
        assert detail in body["detail"]
        assert body["type"] == f"urn:bitbudget:error:{code}"
        assert body["instance"] == path.partition("?")[0]
    assert server.client.post("/v1/models").headers["allow"] == "GET, HEAD, PUT"
    assert server.client.put("/v1/jobs").headers["allow"] == "GET, HEAD, POST"
    assert server.client.post("/docs").headers["allow"] == "GET, HEAD"


def test_json_of_another_size_or_type_is_refused(server: Any) -> None:
    answer = server.client.post("/v1/jobs", content=b" " * (1024**2 + 1), headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["code"]) == (413, "payload_too_large")
    assert answer.json()["detail"] == "the body may have at most 1048576 bytes, got 1048577 bytes"
    answer = server.client.post("/v1/jobs", data={"model_id": "x"})
    assert (answer.status_code, answer.json()["code"]) == (415, "media_type_unsupported")
    assert (
        "got application/x-www-form-urlencoded; send the header Content-Type: application/json"
        in (answer.json()["detail"])
    )


def test_a_mistake_of_the_service_says_where_to_look_and_nothing_else(
    server: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(_sessions: Sessions) -> None:
        raise RuntimeError("the password is swordfish")

    monkeypatch.setattr(health, "condition", broken)
    answer = server.client.get("/readyz")
    assert (answer.status_code, answer.json()["code"]) == (500, "internal")
    assert answer.headers["content-type"] == PROBLEM
    assert "swordfish" not in answer.text
    number = answer.json()["detail"].rpartition(" ")[2]
    logged = [record for record in caplog.records if number in record.getMessage()]
    assert logged
    assert logged[0].exc_info
    assert "swordfish" in str(logged[0].exc_info[1])


def test_a_full_disk_is_named(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_arguments: Any, **_members: Any) -> None:
        with Path("/dev/full").open("wb", buffering=0) as device:
            device.write(b"x")

    monkeypatch.setattr(uploads, "store_upload", full)
    answer = server.client.put("/v1/models", content=b"x")
    assert (answer.status_code, answer.json()["code"]) == (507, "storage_full")
    assert "BITBUDGET_TMP_DIR" in answer.json()["detail"]


def test_the_document_describes_every_call(server: Any) -> None:
    document = server.client.get("/openapi.json").json()
    assert set(document["paths"]) == {
        "/v1/models",
        "/v1/datasets",
        "/v1/models/{upload_id}",
        "/v1/datasets/{upload_id}/description",
        "/v1/models/{upload_id}/description",
        "/v1/datasets/{upload_id}",
        "/v1/uploads",
        "/v1/uploads/{open_id}",
        "/v1/jobs",
        "/v1/certificates",
        "/v1/jobs/{job_id}",
        "/v1/jobs/{job_id}/events",
        "/v1/jobs/{job_id}/log",
        "/v1/jobs/{job_id}/cancel",
        "/v1/jobs/{job_id}/replan",
        "/v1/jobs/{job_id}/plan",
        "/v1/jobs/{job_id}/frontier",
        "/v1/jobs/{job_id}/sensitivity",
        "/v1/jobs/{job_id}/certificate",
        "/v1/jobs/{job_id}/model.onnx",
        "/v1/jobs/{job_id}/charts/{name}.png",
        "/v1/jobs/{job_id}/charts/{name}.svg",
        "/v1/jobs/{job_id}/report.html",
        "/v1/jobs/{job_id}/model-card.md",
        "/v1/jobs/{job_id}/samples",
        "/v1/project",
        "/v1/usage",
        "/v1/keys",
        "/v1/keys/{key_id}",
        "/v1/audit",
        "/v1/webhooks",
        "/v1/webhooks/{webhook_id}",
        "/v1/webhooks/{webhook_id}/test",
        "/v1/webhooks/{webhook_id}/deliveries",
        "/v1/webhooks/{webhook_id}/deliveries/{delivery_id}/resend",
        "/v1/schemas/plan-1.json",
        "/healthz",
        "/readyz",
        "/metrics",
    }
    body = document["paths"]["/v1/jobs"]["post"]["requestBody"]["content"]
    assert set(body) == {"application/json", "multipart/form-data"}
    assert body["application/json"]["schema"]["required"] == ["model_id"]
    assert body["multipart/form-data"]["schema"]["required"] == ["model"]
    for reference in _references(document):
        node = document
        for step in reference.removeprefix("#/").split("/"):
            node = node[step]
    assert "HTTPValidationError" not in document["components"]["schemas"]
    errors = [
        answer["content"]
        for path in document["paths"].values()
        for call in path.values()
        for status, answer in call["responses"].items()
        if int(status) >= 400
    ]
    assert errors
    assert all(list(content) == [PROBLEM] for content in errors)
    assert server.client.get("/docs").status_code == 200


def _references(node: Any) -> list[str]:
    if isinstance(node, dict):
        own = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
        return own + [ref for value in node.values() for ref in _references(value)]
    if isinstance(node, list):
        return [ref for value in node for ref in _references(value)]
    return []


def test_curl_can_upload_and_submit(server: Any, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"model")
    done = subprocess.run(
        [
            *("curl", "-sS", "-w", " %{http_code}", "-F", f"model=@{tmp_path / 'model.onnx'}"),
            *("-F", 'request={"seed": 3}', f"http://127.0.0.1:{server.port}/v1/jobs"),
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.endswith(" 202"), done.stdout
    assert '"seed":3' in done.stdout


def test_a_storage_that_does_not_answer_is_told_and_not_described(
    serve: Any, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    away = settings.model_copy(update={"blobs": "s3://bucket/prefix", "s3_endpoint": "http://127.0.0.1:1"})
    answer = serve(away).client.put("/v1/models", content=b"abc")
    assert (answer.status_code, answer.json()["code"]) == (503, "storage_unavailable")
    assert answer.headers["retry-after"] == "5"
    assert "bucket" not in answer.text
    assert "127.0.0.1" not in answer.text

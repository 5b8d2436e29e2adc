"""What a project may take, and how it is told that it has."""

from __future__ import annotations

import threading
from collections.abc import Callable
from hashlib import sha256
from io import BytesIO
from typing import Any

import httpx
import numpy as np
import pytest
from sqlalchemy import text

from app.access.projects import set_limits
from app.access.quotas import effective_quotas
from app.access.rates import AWAY_SECONDS, Rates
from app.errors import AppError
from app.schemas.job_request import JobRequest
from app.services import jobs
from app.services.uploads import store_upload
from app.settings import Settings
from app.store.blobs import BlobRef, write_bytes, write_stream
from app.store.engine import Sessions, clock
from app.store.quotas import Quotas
from app.store.tables import DEFAULT_PROJECT, ProjectRow
from app.store.uploads import put_upload
from app.store.usage import bytes_stored


def _exceeded(answer: httpx.Response, text: str) -> bool:
    assert answer.status_code == 429, answer.text
    assert int(answer.headers["retry-after"]) >= 1
    return answer.json()["code"] == "quota_exceeded" and text in answer.json()["detail"]


@pytest.fixture
def limit(sessions: Sessions) -> Callable[..., Any]:
    """`limit(max_queued=1)`: quotas of the project of everybody."""
    return lambda **limits: set_limits(sessions, "default", limits)


def test_a_project_has_its_own_quotas_or_those_of_the_settings(settings: Settings) -> None:
    given = settings.model_copy(update={"quota_queued": 5, "quota_bytes": 7})
    assert effective_quotas(ProjectRow(max_queued=0), given) == Quotas(bytes=7, queued=0)
    assert effective_quotas(ProjectRow(), settings) == Quotas()


def test_jobs_that_wait(server: Any, limit: Callable[..., Any]) -> None:
    limit(max_queued=2)
    model = server.upload_model()
    send = lambda key=None: server.client.post(  # noqa: E731
        "/v1/jobs", json={"model_id": model}, headers={} if key is None else {"Idempotency-Key": key}
    )
    first = send("k")
    assert (first.status_code, send().status_code) == (202, 202)
    assert _exceeded(send(), "may have 2 jobs that wait")
    assert _exceeded(server.client.post(f"/v1/jobs/{first.json()['id']}/replan", json={}), "2 jobs")
    # what was made already is answered again
    assert send("k").json()["id"] == first.json()["id"]
    server.client.post(f"/v1/jobs/{first.json()['id']}/cancel")
    assert send().status_code == 202
    assert len(server.client.get("/v1/jobs").json()["jobs"]) == 3


def test_of_two_jobs_at_once_the_second_sees_the_first(
    sessions: Sessions, monkeypatch: pytest.MonkeyPatch, wait_until: Callable[..., None]
) -> None:
    if sessions.engine.dialect.name != "postgresql":
        pytest.skip("on SQLite there is one writing transaction at a time")
    # Jobs about one model would wait for each other anyway.
    models = [write_bytes(sessions, letter) for letter in (b"a", b"b")]
    with sessions.begin() as session:
        for model in models:
            put_upload(session, "model", model, None, clock(session))
    bounded = sessions.of(DEFAULT_PROJECT, quotas=Quotas(queued=1))
    admitted, go_on = threading.Event(), threading.Event()
    results: list[str] = []

    def record(*_: Any) -> None:
        """The first one stays between its admission and its commit."""
        if not admitted.is_set():
            admitted.set()
            go_on.wait()

    def send(model_id: str) -> None:
        try:
            jobs.submit(bounded, lambda: None, JobRequest(model_id=model_id))
            results.append("made")
        except AppError as error:
            results.append(error.code)

    monkeypatch.setattr(jobs, "record", record)
    first, second = (threading.Thread(target=send, args=(model.sha256,)) for model in models)
    first.start()
    admitted.wait()
    second.start()
    wait_until(lambda: not second.is_alive() or _waits_for_a_lock(sessions))
    go_on.set()
    first.join()
    second.join()
    assert sorted(results) == ["made", "quota_exceeded"]


def _waits_for_a_lock(sessions: Sessions) -> bool:
    # Of this test's own schema alone: others run beside it.
    waiting = text(
        "SELECT COUNT(*) FROM pg_locks WHERE NOT granted AND pid IN (SELECT pid FROM pg_locks WHERE relation = "
        "'projects'::regclass)"
    )
    with sessions.read() as session:
        return bool(session.scalar(waiting))


def test_bytes_are_refused_before_they_are_sent_and_while_they_come(server: Any, limit: Callable[..., Any]) -> None:
    limit(max_bytes=1000)
    assert server.client.put("/v1/models", content=b"a" * 600).status_code == 201
    assert _exceeded(server.client.put("/v1/models", content=b"b" * 401), "400 are left")
    # without a length
    assert _exceeded(server.client.put("/v1/datasets", content=iter([b"b" * 300, b"b" * 300])), "400 are left")
    assert _exceeded(server.client.post("/v1/jobs", files={"model": ("m.onnx", b"b" * 400)}), "400 are left")
    assert server.client.put("/v1/models", content=b"c" * 400).status_code == 201
    assert server.client.get("/v1/usage").json()["bytes"] == {"used": 1000, "quota": 1000}
    assert _exceeded(server.client.put("/v1/models", content=b"d"), "0 are left")


def test_samples_of_a_dataset(server: Any, limit: Callable[..., Any]) -> None:
    limit(max_samples=10)
    file = BytesIO()
    np.savez(file, x=np.zeros((11, 2)))
    assert _exceeded(server.client.put("/v1/datasets", content=file.getvalue()), "10 samples, got 11")
    assert server.client.put("/v1/datasets", content=b"no archive").json()["code"] == "dataset_invalid"
    # kinds of uploads that hold no samples are not looked at
    assert server.client.put("/v1/models", content=file.getvalue()).status_code == 201
    limit(max_samples=11)
    assert server.client.put("/v1/datasets", content=file.getvalue()).status_code == 201


def test_the_same_contents_again_take_no_more_room(server: Any, limit: Callable[..., Any]) -> None:
    limit(max_bytes=1000)
    for status in (201, 200):
        assert server.client.put("/v1/models", content=b"a" * 500).status_code == status
    assert server.client.get("/v1/usage").json()["bytes"]["used"] == 500


def test_uploads_that_come_at_once_do_not_pass_the_quota_together(
    sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    bounded = sessions.of(DEFAULT_PROJECT, quotas=Quotas(bytes=1000))
    admitted = threading.Barrier(2)
    results: list[str] = []

    def write_when_both_are_admitted(*args: Any) -> BlobRef:
        admitted.wait()
        return write_stream(*args)

    monkeypatch.setattr("app.services.uploads.write_stream", write_when_both_are_admitted)

    def store(contents: bytes) -> None:
        try:
            store_upload(bounded, "model", BytesIO(contents), sha256(contents).hexdigest(), len(contents), None)
            results.append("stored")
        except AppError as error:
            results.append(error.code)

    threads = [threading.Thread(target=store, args=(letter * 600,)) for letter in (b"a", b"b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results.count("stored") <= 1
    assert "quota_exceeded" in results
    with sessions.read() as session:
        registered = session.scalar(text("SELECT COALESCE(SUM(size_bytes), 0) FROM uploads"))
        assert registered <= 1000
        assert bytes_stored(session) <= 1200  # what was refused goes with the next cleaning


@pytest.fixture(params=["memory", "redis"])
def rates(request: pytest.FixtureRequest) -> Rates:
    broker = request.getfixturevalue("redis_url") if request.param == "redis" else "filesystem://"
    return Rates(broker)


def test_requests_of_a_minute(rates: Rates) -> None:
    for _ in range(3):
        rates.take("a", 3)
    with pytest.raises(AppError, match="may send 3 requests a minute") as refused:
        rates.take("a", 3)
    assert refused.value.headers is not None
    assert 1 <= int(refused.value.headers["Retry-After"]) <= 62
    rates.take("b", 3)
    rates.take("a", None)
    assert (rates.used("a", 3), rates.used("b", 3), rates.used("a", None)) == (3, 1, None)


def test_without_redis_nobody_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    rates = Rates("redis://127.0.0.1:9/0")
    for _ in range(5):
        rates.take("a", 1)
    assert caplog.text.count(f"for {AWAY_SECONDS:g} s requests are not counted") == 1
    assert rates.used("a", 1) is None


def test_the_api_refuses_the_request_after_the_last(server: Any, limit: Callable[..., Any]) -> None:
    limit(max_requests_per_minute=2)
    assert server.client.get("/v1/jobs").status_code == 200
    assert server.client.get("/v1/usage").json()["requests_per_minute"] == {"used": 2, "quota": 2}
    assert _exceeded(server.client.get("/v1/jobs"), "2 requests a minute")
    assert server.client.get("/healthz").status_code == 200

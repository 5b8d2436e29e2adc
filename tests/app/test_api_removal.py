"""DELETE: what ended goes with all that is its own, what is needed stays."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import event, func, select

from app.errors import AppError
from app.lifecycle import claims
from app.lifecycle.states import Artifact, Outcome
from app.schemas.job_request import JobRequest
from app.services import jobs, removal
from app.store import blobs
from app.store.blobs import remove_abandoned, write_bytes
from app.store.engine import Sessions, clock
from app.store.tables import (
    ArtifactRow,
    AuditRow,
    Base,
    BlobRow,
    IdempotencyRow,
    JobEventRow,
    JobLogRow,
    JobRow,
    JobUploadRow,
    UploadRow,
)

LEASE = timedelta(seconds=30)
OF_A_JOB = (JobRow, ArtifactRow, JobEventRow, JobLogRow, JobUploadRow, IdempotencyRow)


def _count(sessions: Sessions, table: type[Base]) -> int:
    with sessions.read() as session:
        return session.scalars(select(func.count()).select_from(table)).one()


def _finish(sessions: Sessions, job_id: str, result: bytes = b"result") -> None:
    claim = claims.claim_next(sessions, "worker", LEASE)
    assert claim is not None
    assert claim.job_id == job_id
    artifact = Artifact(write_bytes(sessions, result), "application/json")
    assert claims.finish(sessions, claim, Outcome.MET, {}, {"plan": artifact})
    with sessions.begin() as session:
        session.add(JobLogRow(job_id=job_id, seq=1, at=clock(session), level="INFO", text="done"))


def _delete(server: Any, address: str, status: int) -> Any:
    answer = server.client.delete(address)
    assert answer.status_code == status, answer.text
    return None if status == 204 else answer.json()


def test_a_job_goes_with_all_that_is_its_own(server: Any) -> None:
    model = server.upload_model()
    headers = {"Idempotency-Key": "k"}
    job = server.client.post("/v1/jobs", json={"model_id": model}, headers=headers).json()["id"]
    _finish(server.sessions, job)
    assert all(_count(server.sessions, table) for table in OF_A_JOB)
    _delete(server, f"/v1/jobs/{job}", 204)
    assert [_count(server.sessions, table) for table in OF_A_JOB] == [0] * len(OF_A_JOB)
    for address in ("", "/plan", "/events"):
        assert server.client.get(f"/v1/jobs/{job}{address}").status_code == 404
    assert _delete(server, f"/v1/jobs/{job}", 404)["code"] == "not_found"
    again = server.client.post("/v1/jobs", json={"model_id": model}, headers=headers).json()["id"]
    assert again != job, "the key went with its job"
    with server.sessions.read() as session:
        written = [(row.action, row.subject) for row in session.scalars(select(AuditRow))]
    assert ("job.delete", f"/v1/jobs/{job}") in written


def test_a_job_that_waits_or_runs_stays_until_it_is_cancelled(server: Any) -> None:
    job = server.submit()["id"]
    claim = None
    for state in ("queued", "running"):
        refused = _delete(server, f"/v1/jobs/{job}", 409)
        assert refused["code"] == "in_use"
        assert refused["detail"].startswith(f"the job {job} is {state}; cancel it first: POST /v1/jobs/{job}/cancel")
        claim = claim or claims.claim_next(server.sessions, "worker", LEASE)
    assert claim is not None
    server.client.post(f"/v1/jobs/{job}/cancel")
    _delete(server, f"/v1/jobs/{job}", 409)
    assert claims.cancelled(server.sessions, claim)
    _delete(server, f"/v1/jobs/{job}", 204)


def test_a_parent_goes_and_its_replans_stay(server: Any) -> None:
    parent = server.submit()["id"]
    _finish(server.sessions, parent)
    child = server.client.post(f"/v1/jobs/{parent}/replan", json={"seed": 1}).json()
    _delete(server, f"/v1/jobs/{parent}", 204)
    assert server.client.get(f"/v1/jobs/{child['id']}").json() == child | {"parent_id": None}
    _finish(server.sessions, child["id"])
    assert server.client.get(f"/v1/jobs/{child['id']}/plan").content == b"result"
    assert server.client.post(f"/v1/jobs/{parent}/replan", json={}).status_code == 404


def test_uploads_stay_while_a_job_that_has_not_ended_reads_them(server: Any) -> None:
    model, quantized, metric = (server.upload_model(data) for data in (b"m", b"q", b"g"))
    dataset = server.client.put("/v1/datasets", content=b"d").json()["id"]
    request = {"model_id": model, "quantized_id": quantized, "dataset_id": dataset, "budget": {"metric_id": metric}}
    answer = server.client.post("/v1/certificates", json=request)
    assert answer.status_code == 202, answer.text
    job = answer.json()["id"]
    addresses = [*(f"/v1/models/{upload}" for upload in (model, quantized, metric)), f"/v1/datasets/{dataset}"]
    for address in addresses:
        refused = _delete(server, address, 409)
        assert refused["code"] == "in_use"
        assert f"is read by jobs that have not ended: {job}; wait for them, or cancel them" in refused["detail"]
    assert _delete(server, f"/v1/models/{dataset}", 404)["code"] == "not_found", "it is a dataset"
    _finish(server.sessions, job)
    for address in addresses:
        _delete(server, address, 204)
        assert _delete(server, address, 404)["code"] == "not_found"
    assert _count(server.sessions, UploadRow) == 0
    assert server.client.get(f"/v1/jobs/{job}").json()["state"] == "succeeded"


def test_many_jobs_that_need_an_upload_are_not_all_named(server: Any) -> None:
    made = [server.submit()["id"] for _ in range(4)]
    detail = _delete(server, f"/v1/models/{server.upload_model()}", 409)["detail"]
    assert f"{', '.join(made[:3])} and others; wait" in detail
    assert made[3] not in detail


def test_a_job_whose_model_is_gone_keeps_its_results_and_cannot_be_replanned(server: Any) -> None:
    job = server.submit()
    _finish(server.sessions, job["id"])
    _delete(server, f"/v1/models/{job['model_id']}", 204)
    assert server.client.get(f"/v1/jobs/{job['id']}/plan").content == b"result"
    refused = server.client.post(f"/v1/jobs/{job['id']}/replan", json={})
    assert (refused.status_code, refused.json()["code"]) == (404, "not_found")
    assert refused.json()["detail"] == f"no model has the id {job['model_id']}; upload it with PUT /v1/models"
    server.upload_model()
    assert server.client.post(f"/v1/jobs/{job['id']}/replan", json={}).status_code == 202


def test_contents_go_when_the_last_that_refers_to_them_is_gone(server: Any) -> None:
    first, second = server.submit()["id"], server.submit()["id"]
    _finish(server.sessions, first)
    _finish(server.sessions, second)
    _delete(server, f"/v1/jobs/{first}", 204)
    assert remove_abandoned(server.sessions, timedelta(0)) == 0, "the other job has the same result"
    _delete(server, f"/v1/jobs/{second}", 204)
    assert remove_abandoned(server.sessions, timedelta(hours=1)) == 0, "somebody may still be reading"
    assert remove_abandoned(server.sessions, timedelta(0)) == 1
    _delete(server, f"/v1/models/{server.upload_model()}", 204)
    assert remove_abandoned(server.sessions, timedelta(0)) == 1
    assert _count(server.sessions, BlobRow) == 0


def test_a_removed_upload_can_be_sent_again(server: Any) -> None:
    model = server.upload_model()
    _delete(server, f"/v1/models/{model}", 204)
    assert server.client.put("/v1/models", content=b"model").status_code == 201
    with server.sessions.read() as session:
        blob = blobs.find_blob(session, session.scalars(select(UploadRow.blob_id)).one())
    assert blobs.read_bytes(server.sessions, blob) == b"model"


def test_nothing_of_another_project_can_be_removed(server: Any) -> None:
    job = server.submit()
    _finish(server.sessions, job["id"])
    theirs = server.sessions.of("another")
    with pytest.raises(AppError, match="not_found"):
        removal.remove_job(theirs, job["id"])
    with pytest.raises(AppError, match="not_found"):
        removal.remove_upload(theirs, "model", job["model_id"])
    assert server.client.get(f"/v1/jobs/{job['id']}").status_code == 200


class _Meeting:
    """Two transactions at once: the second begins when the first has written, and the first ends when the second waits
    for it."""

    def __init__(self, sessions: Sessions, second: Callable[[], Any]) -> None:
        self.outcome: list[Any] = []
        self._asks = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(second,))

        @event.listens_for(sessions.engine, "before_cursor_execute")
        def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
            waits = statement.startswith("BEGIN IMMEDIATE") or "FOR UPDATE" in statement or "FOR KEY SHARE" in statement
            if threading.current_thread() is self._thread and waits:
                self._asks.set()

    def _run(self, second: Callable[[], Any]) -> None:
        try:
            self.outcome.append(second())
        except AppError as error:
            self.outcome.append(error.code)

    def begin(self) -> None:
        self._thread.start()
        self._asks.wait()
        assert self.outcome == []

    def end(self) -> Any:
        self._thread.join()
        return self.outcome[0]


def test_a_model_that_a_job_is_just_being_made_about_stays(
    sessions: Sessions, new_job: Callable[[], JobRow], monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = new_job()
    jobs.cancel(sessions, ended.id)
    meeting = _Meeting(sessions, lambda: removal.remove_upload(sessions, "model", ended.model_id))
    insert = jobs.jobs.add_event

    def add_event(*arguments: Any) -> int:
        monkeypatch.undo()
        meeting.begin()
        return insert(*arguments)

    monkeypatch.setattr(jobs.jobs, "add_event", add_event)
    new_job()
    assert meeting.end() == "in_use"


def test_a_model_that_is_just_being_removed_gets_no_job(
    sessions: Sessions, new_job: Callable[[], JobRow], monkeypatch: pytest.MonkeyPatch
) -> None:
    job = new_job()
    jobs.cancel(sessions, job.id)
    request = JobRequest(model_id=job.model_id)
    meeting = _Meeting(sessions, lambda: jobs.submit(sessions, lambda: None, request))
    remove = removal.removal.remove_upload

    def remove_upload(*arguments: Any) -> None:
        meeting.begin()
        remove(*arguments)

    monkeypatch.setattr(removal.removal, "remove_upload", remove_upload)
    removal.remove_upload(sessions, "model", job.model_id)
    assert meeting.end() == "not_found"


def test_a_job_that_is_just_being_removed_gets_no_replan(
    sessions: Sessions, new_job: Callable[[], JobRow], monkeypatch: pytest.MonkeyPatch
) -> None:
    parent = new_job()
    jobs.cancel(sessions, parent.id)
    meeting = _Meeting(sessions, lambda: jobs.replan(sessions, lambda: None, parent.id, {}))
    remove = removal.removal.remove_job

    def remove_job(*arguments: Any) -> None:
        meeting.begin()
        remove(*arguments)

    monkeypatch.setattr(removal.removal, "remove_job", remove_job)
    removal.remove_job(sessions, parent.id)
    assert meeting.end() == "not_found"
    assert _count(sessions, JobRow) == 0

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import update

from app.lifecycle import presence
from app.store import figures
from app.store.access import put_project
from app.store.blobs import write_bytes
from app.store.engine import Sessions, clock
from app.store.stage_seconds import add_stage_seconds
from app.store.tables import DeliveryRow, JobRow, WebhookRow, WorkerRow


@pytest.fixture
def now(sessions: Sessions) -> datetime:
    with sessions.read() as session:
        return clock(session)


def _scraped(server: Any) -> dict[str, float]:
    """Every sample by its name and labels."""
    text = server.client.get("/metrics").text
    samples = [line.rsplit(" ", 1) for line in text.splitlines() if line and not line.startswith("#")]
    return {name: float(value) for name, value in samples}


def test_a_scrape_tells_workers_that_work_and_workers_that_wait(server: Any, sessions: Sessions, now: datetime) -> None:
    for name, job_id in (("first", None), ("second", "a" * 32), ("third", "a" * 32)):
        presence.seen(sessions, name, job_id=job_id, progressed=name != "third")
    with sessions.begin() as session:
        long_ago = now - timedelta(hours=1)
        session.execute(update(WorkerRow).where(WorkerRow.name == "third").values(started_at=long_ago))
        session.add(WorkerRow(name="gone", started_at=long_ago, seen_at=long_ago, progressed_at=long_ago))
    scraped = _scraped(server)
    assert scraped['bitbudget_workers{state="idle"}'] == 1
    assert scraped['bitbudget_workers{state="busy"}'] == 2
    assert scraped["bitbudget_workers_progressing"] == 2


def test_a_scrape_tells_the_queue_of_every_project(
    server: Any, sessions: Sessions, now: datetime, new_job: Callable[[], JobRow], monkeypatch: pytest.MonkeyPatch
) -> None:
    with sessions.begin() as session:
        put_project(session, "p1", "team one", now)
    mine, others = [new_job().id for _ in range(2)], [new_job().id for _ in range(3)]
    with sessions.begin() as session:
        session.execute(update(JobRow).where(JobRow.id.in_(others)).values(project_id="p1"))
        session.execute(update(JobRow).where(JobRow.id == others[0]).values(created_at=now - timedelta(hours=2)))
        session.execute(update(JobRow).where(JobRow.id == mine[0]).values(created_at=now - timedelta(hours=1)))
    scraped = _scraped(server)
    assert scraped['bitbudget_queued_jobs{project="default"}'] == 2
    assert scraped['bitbudget_queued_jobs{project="team one"}'] == 3
    assert 3600 <= scraped['bitbudget_queue_age_seconds{project="default"}'] < 7200
    assert scraped['bitbudget_queue_age_seconds{project="team one"}'] >= 7200
    assert scraped["bitbudget_oldest_queued_job_seconds"] >= 7200
    monkeypatch.setattr(figures, "MOST_PROJECTS", 1)
    assert 'bitbudget_queued_jobs{project="default"}' not in _scraped(server)


def test_a_scrape_tells_failures_by_their_code(
    server: Any, sessions: Sessions, now: datetime, new_job: Callable[[], JobRow]
) -> None:
    codes = ["out_of_memory", "out_of_memory", "time_limit"]
    with sessions.begin() as session:
        for job, code in zip([new_job().id for _ in codes], codes, strict=True):
            failed = {"state": "failed", "error_code": code, "finished_at": now}
            session.execute(update(JobRow).where(JobRow.id == job).values(**failed))
    scraped = _scraped(server)
    assert scraped['bitbudget_failed_jobs{code="out_of_memory"}'] == 2
    assert scraped['bitbudget_failed_jobs{code="time_limit"}'] == 1
    assert scraped['bitbudget_jobs{state="failed"}'] == 3


def test_a_scrape_tells_what_projects_store_and_what_webhooks_did_not_take(
    server: Any, sessions: Sessions, now: datetime
) -> None:
    write_bytes(sessions, b"four")
    with sessions.begin() as session:
        put_project(session, "p1", "team one", now)
        session.add(WebhookRow(id="w", project_id="p1", url="http://127.0.0.1/", secret="s", created_at=now))
        session.flush()
        for number, state in enumerate(("pending", "pending", "delivered")):
            times = dict.fromkeys(("next_at", "give_up_at", "created_at"), now)
            message = {"kind": "job.succeeded", "payload": {}, "attempts": 0, **times}
            session.add(DeliveryRow(id=str(number), webhook_id="w", state=state, **message))
    write_bytes(sessions.of("p1"), b"seventeen bytes..")
    scraped = _scraped(server)
    assert scraped['bitbudget_stored_bytes{project="default"}'] == 4
    assert scraped['bitbudget_stored_bytes{project="team one"}'] == 17
    assert scraped['bitbudget_webhook_deliveries{state="pending"}'] == 2
    assert scraped['bitbudget_webhook_deliveries{state="failed"}'] == 0


def test_a_scrape_tells_the_seconds_of_stages_as_a_histogram(server: Any, sessions: Sessions) -> None:
    with sessions.begin() as session:
        for seconds in (0.05, 4.0, 5.0, 1e6):
            add_stage_seconds(session, "plan", seconds)
    scraped = _scraped(server)
    expected = {"0.1": 1, "1": 1, "5": 3, "43200": 3, "+Inf": 4}
    assert {le: scraped[f'bitbudget_stage_seconds_bucket{{le="{le}",stage="plan"}}'] for le in expected} == expected
    assert scraped['bitbudget_stage_seconds_count{stage="plan"}'] == 4
    assert scraped['bitbudget_stage_seconds_sum{stage="plan"}'] == pytest.approx(1_000_009.05)


@pytest.mark.parametrize(
    ("waited", "progressed", "ready"),
    [
        (None, 600, True),  # nothing waits: whoever is alive will do
        (10, 600, True),  # the worker has not looked yet
        (600, 10, True),  # workers are busy, and get on
        (600, 600, False),
    ],
)
def test_ready_means_that_a_queue_moves(
    waited: int | None,
    progressed: int,
    ready: bool,
    server: Any,
    sessions: Sessions,
    now: datetime,
    new_job: Callable[[], JobRow],
) -> None:
    presence.seen(sessions, "worker", progressed=False)
    if waited is not None:
        job = new_job().id
        with sessions.begin() as session:
            session.execute(update(JobRow).where(JobRow.id == job).values(created_at=now - timedelta(seconds=waited)))
    with sessions.begin() as session:
        then = now - timedelta(seconds=progressed)
        session.execute(update(WorkerRow).values(progressed_at=then, started_at=now - timedelta(hours=1)))
    answer = server.client.get("/readyz")
    assert answer.status_code == (200 if ready else 503)
    assert answer.json()["workers"] == 1
    assert answer.json()["progressing"] == (1 if progressed < 60 else 0)
    if not ready:
        assert answer.json()["code"] == "not_ready"
        assert "jobs wait, and within 60 s none of 1 workers has claimed one" in answer.json()["detail"]

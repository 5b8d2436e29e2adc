"""Workers that are killed and workers that sleep: every job ends once, with the results of the worker that ended it."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import func, select

from app.lifecycle.recovery import reap
from app.lifecycle.states import JobState
from app.schemas.job_request import JobRequest
from app.services import jobs as service
from app.services.results import find_result
from app.store.blobs import read_bytes, write_bytes
from app.store.engine import Sessions, clock
from app.store.jobs import count_by_state, events_after
from app.store.tables import ArtifactRow, JobRow
from app.store.uploads import put_upload

JOBS = 40
WORKERS = 3
KILLS = 10
LEASE = timedelta(seconds=0.4)


class Crew:
    """Worker processes; a killed one is replaced by a new one of another name."""

    def __init__(self, database_url: str, log: Path) -> None:
        self._database_url, self._log = database_url, log
        self._made = 0
        self.running: list[subprocess.Popen[bytes]] = []

    def hire(self) -> None:
        self._made += 1
        program = [sys.executable, str(Path(__file__).with_name("crashing_worker.py")), self._database_url]
        program += [f"worker{self._made}", str(LEASE.total_seconds()), str(self._made)]
        with self._log.open("ab") as log:
            self.running.append(subprocess.Popen(program, stdout=log, stderr=log))

    def kill(self, index: int) -> None:
        process = self.running.pop(index)
        process.kill()
        process.wait()


@contextmanager
def _crew(database_url: str, log: Path) -> Iterator[Crew]:
    crew = Crew(database_url, log)
    try:
        for _ in range(WORKERS):
            crew.hire()
        yield crew
    finally:
        while crew.running:
            crew.kill(0)


@pytest.mark.timeout(180)
def test_every_job_ends_once_whoever_dies(sessions: Sessions, database_url: str, tmp_path: Path) -> None:
    model = write_bytes(sessions, b"model")
    with sessions.begin() as session:
        put_upload(session, "model", model, None, clock(session))
    made = [
        service.submit(
            sessions, lambda _id: None, JobRequest(model_id=model.sha256, seed=seed), announce_after=LEASE
        ).id
        for seed in range(JOBS)
    ]
    choose = random.Random(7)
    log = tmp_path / "log"
    with _crew(database_url, log) as crew:
        killed, deadline = 0, time.monotonic() + 120
        while True:
            reap(sessions, max_attempts=1000)
            with sessions.read() as session:
                states = count_by_state(session)
            if states == {JobState.SUCCEEDED: JOBS}:
                break
            assert time.monotonic() < deadline, (states, log.read_text())
            if killed < KILLS and states.get(JobState.RUNNING) and choose.random() < 0.3:
                crew.kill(choose.randrange(WORKERS))
                crew.hire()
                killed += 1
            time.sleep(0.05)
        time.sleep(4 * LEASE.total_seconds())  # those that still sleep wake up and try to finish

    with sessions.read() as session:
        rows = {row.id: row for row in session.scalars(select(JobRow))}
        assert session.scalar(select(func.count()).select_from(ArtifactRow)) == JOBS
        for job_id in made:
            events = events_after(session, job_id, 0)
            assert [event.seq for event in events] == list(range(1, len(events) + 1))
            ended = [event for event in events if event.data.get("state") == "succeeded"]
            assert len(ended) == 1
    for job_id in made:
        row = rows[job_id]
        assert row.summary == {"owner": row.owner, "attempt": row.attempt}
        contents = read_bytes(sessions, find_result(sessions, job_id, "plan").blob).decode()
        assert contents == f"{row.owner} {row.attempt} {job_id}"
    text = log.read_text()
    assert "Traceback" not in text, text
    assert killed > 0
    assert "fenced" in text, "no worker slept over its lease; the test does not test what it should"
    assert max(row.attempt for row in rows.values()) > 1

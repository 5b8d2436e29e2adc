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

from sqlalchemy import ColumnElement, and_, func, select, update

from app.lifecycle.recovery import reap
from app.lifecycle.states import JobState
from app.schemas.job_request import JobRequest
from app.services import jobs as service
from app.services.results import find_result
from app.store.blobs import read_bytes, write_bytes
from app.store.engine import Sessions, clock
from app.store.figures import count_by_state
from app.store.jobs import events_after
from app.store.tables import ArtifactRow, JobRow
from app.store.uploads import put_upload

JOBS = 40
WORKERS = 3
KILLS = 10
STALLS = 5


class Crew:
    """Worker processes; a killed one is replaced by a new one of another name."""

    def __init__(self, database_url: str, log: Path) -> None:
        self._database_url, self._log = database_url, log
        self._made = 0
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def hire(self) -> None:
        self._made += 1
        name = f"worker{self._made}"
        program = [sys.executable, str(Path(__file__).with_name("crashing_worker.py")), self._database_url, name]
        with self._log.open("ab") as log:
            self.running[name] = subprocess.Popen([*program, str(self._made)], stdout=log, stderr=log)

    def kill(self, name: str) -> None:
        process = self.running.pop(name)
        process.kill()
        process.wait()

    def said(self, word: str) -> set[tuple[str, ...]]:
        """Worker, job and attempt of each line that begins with `word`, of the workers that live."""
        lines = [line.split() for line in self._log.read_text().splitlines()]
        return {tuple(line[1:]) for line in lines if line[:1] == [word] and line[1] in self.running}


@contextmanager
def _crew(database_url: str, log: Path) -> Iterator[Crew]:
    crew = Crew(database_url, log)
    try:
        for _ in range(WORKERS):
            crew.hire()
        yield crew
    finally:
        while crew.running:
            crew.kill(next(iter(crew.running)))


def _end_lease(sessions: Sessions, whose: ColumnElement[bool]) -> None:
    with sessions.begin() as session:
        over = clock(session) - timedelta(seconds=1)
        session.execute(update(JobRow).where(whose, JobRow.state == JobState.RUNNING).values(lease_until=over))


def test_every_job_ends_once_whoever_dies(sessions: Sessions, database_url: str, tmp_path: Path) -> None:
    model = write_bytes(sessions, b"model")
    with sessions.begin() as session:
        put_upload(session, "model", model, None, clock(session))
    made: list[str] = []

    def make() -> None:
        request = JobRequest(model_id=model.sha256, seed=len(made))
        made.append(service.submit(sessions, lambda: None, request).id)

    for _ in range(JOBS):
        make()
    choose = random.Random(7)
    log = tmp_path / "log"
    with _crew(database_url, log) as crew:
        killed, fenced = 0, 0
        while True:
            with sessions.read() as session:
                states = count_by_state(session)
            asleep = crew.said("stalls") - crew.said("fenced")
            if killed < KILLS and states.get(JobState.RUNNING):
                name = choose.choice(list(crew.running))
                crew.kill(name)
                crew.hire()
                killed += 1
                _end_lease(sessions, JobRow.owner == name)
            for name, job_id, _ in asleep:
                _end_lease(sessions, and_(JobRow.owner == name, JobRow.id == job_id))
            reap(sessions, max_attempts=1000)
            fenced = max(fenced, len(crew.said("fenced")))
            enough = killed >= KILLS and fenced >= STALLS
            if states == {JobState.SUCCEEDED: len(made)} and enough and not asleep:
                break
            if not enough and not states.get(JobState.QUEUED):
                make()
            time.sleep(0.01)

    with sessions.read() as session:
        rows = {row.id: row for row in session.scalars(select(JobRow))}
        assert session.scalar(select(func.count()).select_from(ArtifactRow)) == len(made)
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
    assert max(row.attempt for row in rows.values()) > 1

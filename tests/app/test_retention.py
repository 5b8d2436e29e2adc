"""What is kept for a number of days only, and that its room is used again or given back."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

from sqlalchemy import Connection, func, select, text, update

from app.dispatcher import Dispatcher
from app.lifecycle import claims
from app.lifecycle.retention import Expired, expire
from app.lifecycle.states import Artifact, Outcome
from app.services import jobs
from app.settings import Settings
from app.store.blobs import remove_abandoned, write_bytes
from app.store.engine import Sessions, clock, open_sessions
from app.store.migrate import upgrade
from app.store.room import give_back
from app.store.stages import get_stage_result, put_stage_result
from app.store.tables import AuditRow, Base, BlobChunkRow, BlobRow, JobRow, ProjectRow, StageResultRow, UploadRow
from app.store.uploads import put_upload

NewJob = Callable[[], JobRow]
DAY = timedelta(days=1)
LEASE = timedelta(seconds=30)


def _now(sessions: Sessions) -> datetime:
    with sessions.read() as session:
        return clock(session)


def _count(sessions: Sessions, table: type[Base]) -> int:
    with sessions.read() as session:
        return session.scalars(select(func.count()).select_from(table)).one()


def _finish(sessions: Sessions, result: bytes = b"result") -> None:
    claim = claims.claim_next(sessions, "worker", LEASE)
    assert claim is not None
    assert claims.finish(sessions, claim, Outcome.MET, {}, {"plan": Artifact(write_bytes(sessions, result), "x/y")})


def _upload(sessions: Sessions, data: bytes, *, pinned: bool = False) -> str:
    blob = write_bytes(sessions, data)
    with sessions.begin() as session:
        row, _ = put_upload(session, "dataset", blob, None, clock(session))
        row.pinned = pinned
        return row.id


def test_without_a_number_everything_is_kept(sessions: Sessions, new_job: NewJob) -> None:
    new_job()
    _finish(sessions)
    assert expire(sessions, None, now=_now(sessions) + 10_000 * DAY) == Expired()
    assert expire(sessions, 10**9, now=_now(sessions)) == Expired()


def test_jobs_that_ended_long_ago_go_and_others_stay(sessions: Sessions, new_job: NewJob) -> None:
    old, pinned, running, waiting = (new_job() for _ in range(4))
    _finish(sessions)
    _finish(sessions, b"another")
    with sessions.begin() as session:
        session.execute(update(JobRow).where(JobRow.id == pinned.id).values(pinned=True))
    assert claims.claim_next(sessions, "worker", LEASE) is not None
    now = _now(sessions)
    assert expire(sessions, 30, now=now + 29 * DAY).total == 0
    assert expire(sessions, 30, now=now + 31 * DAY) == Expired(jobs=1)
    assert {row.id for row in jobs.recent(sessions, jobs.jobs.JobFilter(), 10, None)[0]} == {
        pinned.id,
        running.id,
        waiting.id,
    }
    with sessions.read() as session:
        written = [(row.action, row.subject, row.key_id) for row in session.scalars(select(AuditRow))]
    assert ("job.expire", f"/v1/jobs/{old.id}", None) in written


def test_a_project_has_a_number_of_its_own(sessions: Sessions, new_job: NewJob) -> None:
    new_job()
    _finish(sessions)
    now = _now(sessions)
    with sessions.begin() as session:
        session.execute(update(ProjectRow).values(keep_days=100))
    assert expire(sessions, 1, now=now + 99 * DAY).total == 0
    assert expire(sessions, None, now=now + 101 * DAY).jobs == 1


def test_uploads_stay_as_long_as_a_job_names_them_or_somebody_uses_them(sessions: Sessions, new_job: NewJob) -> None:
    job = new_job()
    jobs.cancel(sessions, job.id)
    with sessions.begin() as session:
        session.execute(update(JobRow).values(pinned=True))
    unused, pinned = _upload(sessions, b"1"), _upload(sessions, b"2", pinned=True)
    now = _now(sessions)
    assert expire(sessions, 30, now=now + 29 * DAY).total == 0
    assert expire(sessions, 30, now=now + 31 * DAY) == Expired(uploads=1)
    with sessions.read() as session:
        kept = set(session.scalars(select(UploadRow.id)))
    assert kept == {job.model_id, pinned}
    assert unused not in kept
    with sessions.begin() as session:
        session.execute(update(JobRow).values(pinned=False))
        session.execute(update(UploadRow).values(used_at=now + 31 * DAY))
    assert expire(sessions, 30, now=now + 31 * DAY) == Expired(jobs=1), "it was used a moment ago"
    assert expire(sessions, 30, now=now + 62 * DAY) == Expired(uploads=1), "the other is pinned"


def test_results_of_stages_go_when_they_were_not_used_for_long(sessions: Sessions, new_job: NewJob) -> None:
    for key in ("used", "unused"):
        put_stage_result(sessions, key, write_bytes(sessions, key.encode()))
    now = _now(sessions)
    with sessions.begin() as session:
        session.execute(update(StageResultRow).values(created_at=now - 40 * DAY))
    get_stage_result(sessions, "used")
    assert expire(sessions, 40, now=now).results == 0, "uses are known to the day"
    new_job()
    assert claims.claim_next(sessions, "worker", LEASE) is not None
    with sessions.begin() as session:
        session.execute(update(JobRow).values(started_at=now - 39 * DAY))
    assert expire(sessions, 30, now=now).results == 0, "a job that began before may still need it"
    with sessions.begin() as session:
        session.execute(update(JobRow).values(started_at=now))
    assert expire(sessions, 30, now=now).results == 1
    assert get_stage_result(sessions, "used") is not None
    assert get_stage_result(sessions, "unused") is None


def test_a_use_is_noted_once_a_day(sessions: Sessions) -> None:
    put_stage_result(sessions, "key", write_bytes(sessions, b"1"))

    def used_at() -> datetime | None:
        get_stage_result(sessions, "key")
        with sessions.read() as session:
            return session.scalars(select(StageResultRow.used_at)).one()

    assert used_at() is None, "it was made today"
    with sessions.begin() as session:
        session.execute(update(StageResultRow).values(created_at=clock(session) - 2 * DAY))
    noted = used_at()
    assert noted is not None
    assert used_at() == noted
    with sessions.begin() as session:
        session.execute(update(StageResultRow).values(used_at=noted - 2 * DAY))
    assert used_at() != noted - 2 * DAY


def test_a_round_removes_a_bounded_number_and_says_that_there_is_more(sessions: Sessions, new_job: NewJob) -> None:
    for _ in range(5):
        jobs.cancel(sessions, new_job().id)
    later = _now(sessions) + 31 * DAY
    rounds = [expire(sessions, 30, now=later, at_most=2) for _ in range(4)]
    assert [(done.jobs, done.more) for done in rounds] == [(2, True), (2, True), (1, False), (0, False)]
    assert [done.uploads for done in rounds] == [0, 0, 1, 0], "after the last job that names it"


def test_the_dispatcher_goes_on_until_all_is_gone(sessions: Sessions, new_job: NewJob, tmp_path: Path) -> None:
    for number in range(60):
        jobs.cancel(sessions, new_job().id)
        write_bytes(sessions, str(number).encode())
    with sessions.begin() as session:
        long_ago = clock(session) - 31 * DAY
        session.execute(update(JobRow).values(created_at=long_ago, finished_at=long_ago))
        session.execute(update(UploadRow).values(created_at=long_ago, used_at=long_ago))
        session.execute(update(BlobRow).values(touched_at=long_ago))
    settings = Settings(home=tmp_path / "home", database_url=str(sessions.engine.url), keep_days=30)
    dispatcher = Dispatcher(settings, open_like(sessions), lambda: None)
    dispatcher.step()
    assert (_count(sessions, JobRow), _count(sessions, BlobRow)) == (10, 11)
    dispatcher.step()
    assert (_count(sessions, JobRow), _count(sessions, UploadRow), _count(sessions, BlobRow)) == (0, 0, 1)


def open_like(sessions: Sessions) -> Sessions:
    """Sessions about no project, as the dispatcher has them."""
    return Sessions(sessions.engine)


def _fill(sessions: Sessions, count: int = 24) -> None:
    for _ in range(count):
        write_bytes(sessions, os.urandom(2**20))


def _wait_for_older_transactions(connection: Connection) -> None:
    """Until every transaction on the server is newer: `VACUUM` keeps what an older one (another test's) may read."""
    now = connection.scalar(text("SELECT pg_current_xact_id()::text"))
    older = text(
        "SELECT count(*) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
        " AND greatest(age(backend_xid), age(backend_xmin)) >= age(CAST(:now AS xid))"
    )
    for _ in range(1200):
        if not connection.scalar(older, {"now": now}):
            return
        time.sleep(0.1)
    raise AssertionError("a transaction on this server has been open for two minutes: nothing can be said of VACUUM")


def test_removed_contents_free_their_room(sessions: Sessions, database_url: str) -> None:
    def size() -> int:
        if sessions.engine.dialect.name == "sqlite":
            with sessions.begin() as session:
                session.execute(text("SELECT 1"))
            with sessions.engine.connect() as connection:
                connection.exec_driver_sql("COMMIT")
                connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
                connection.exec_driver_sql("BEGIN")
            return Path(str(sessions.engine.url.database)).stat().st_size
        with sessions.read() as session:
            return int(session.scalar(text("SELECT pg_total_relation_size('blob_chunks')")) or 0)

    _fill(sessions)
    full = size()
    assert full > 24 * 2**20
    assert remove_abandoned(sessions, timedelta(0)) == 24
    assert _count(sessions, BlobChunkRow) == 0
    if sessions.engine.dialect.name == "sqlite":
        while give_back(sessions, pages_kept=0):
            pass
        assert size() < full / 10
    else:
        with sessions.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            _wait_for_older_transactions(connection)
            connection.execute(text("VACUUM blob_chunks"))  # what autovacuum does
        _fill(sessions)
        assert size() < 1.1 * full, "it lies where the removed contents did"


def test_a_file_keeps_some_free_pages_and_an_older_one_all(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'bitbudget.db'}"
    upgrade(url)
    sessions = open_sessions(url).of("default")
    _fill(sessions, 8)
    remove_abandoned(sessions, timedelta(0))

    def free() -> int:
        with sessions.read() as session:
            return int(session.scalar(text("PRAGMA freelist_count")) or 0)

    assert give_back(sessions, pages_kept=1000) is False
    assert free() == 1000
    sessions.dispose()
    with sessions.engine.connect() as connection:
        connection.exec_driver_sql("COMMIT")
        connection.exec_driver_sql("PRAGMA auto_vacuum=NONE")
        connection.exec_driver_sql("VACUUM")
        connection.exec_driver_sql("BEGIN")
    _fill(sessions, 2)
    remove_abandoned(sessions, timedelta(0))
    before = free()
    assert give_back(sessions, pages_kept=0) is False
    assert free() == before > 0
    sessions.dispose()

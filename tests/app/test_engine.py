from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from sqlalchemy import select, text, update
from sqlalchemy.exc import IntegrityError, StatementError

from app.store.engine import Sessions, clock, open_sessions
from app.store.statements import storable
from app.store.tables import ArtifactRow, WorkerRow


def _add(sessions: Sessions, name: str, seen_at: datetime) -> None:
    with sessions.begin() as session:
        session.add(WorkerRow(name=name, started_at=seen_at, seen_at=seen_at))


def test_a_block_that_raises_leaves_nothing(sessions: Sessions) -> None:
    def fail_after_adding() -> None:
        with sessions.begin() as session:
            session.add(WorkerRow(name="a", started_at=clock(session), seen_at=clock(session)))
            session.flush()
            raise RuntimeError("after the write")

    with pytest.raises(RuntimeError, match="after the write"):
        fail_after_adding()
    with sessions.read() as session:
        assert session.scalars(select(WorkerRow)).all() == []


def test_times_come_back_as_utc_whatever_zone_they_had(sessions: Sessions) -> None:
    time = datetime(2026, 3, 29, 3, 30, 0, 123456, tzinfo=timezone(timedelta(hours=2)))
    _add(sessions, "a", time)
    with sessions.read() as session:
        got = session.scalars(select(WorkerRow.seen_at)).one()
    assert got == time
    assert got.tzinfo is UTC
    with pytest.raises(StatementError, match="times in the database are aware, got the naive"):
        _add(sessions, "b", datetime(2026, 1, 1))


def test_the_clock_of_the_database_is_about_ours_and_runs(sessions: Sessions) -> None:
    with sessions.read() as session:
        first = clock(session)
        session.execute(text("SELECT pg_sleep(0.01)" if _is_postgresql(sessions) else "SELECT 1"))
        second = clock(session)
    assert abs(first - datetime.now(UTC)) < timedelta(minutes=1)
    assert second > first, "not the time at which the transaction began"


def test_references_to_nothing_are_refused(sessions: Sessions) -> None:
    def add() -> None:
        with sessions.begin() as session:
            session.add(ArtifactRow(job_id="0" * 32, kind="plan", blob_id=1, media_type="x"))

    with pytest.raises(IntegrityError, match=r"(?i)foreign key"):
        add()


def test_many_who_read_and_then_write_lose_nothing(sessions: Sessions) -> None:
    # On SQLite with deferred transactions all but one of these would fail with "database is locked".
    with sessions.read() as session:
        start = clock(session)
    _add(sessions, "a", start)
    together = threading.Barrier(6)
    errors: list[BaseException] = []

    def count() -> None:
        together.wait()
        try:
            for _ in range(10):
                with sessions.begin() as session:
                    row = session.scalars(select(WorkerRow).with_for_update()).one()
                    session.execute(update(WorkerRow).values(seen_at=row.seen_at + timedelta(seconds=1)))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=count) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    with sessions.read() as session:
        assert session.scalars(select(WorkerRow.seen_at)).one() == start + timedelta(seconds=60)


def test_readers_see_the_past_while_somebody_writes(sessions: Sessions) -> None:
    with sessions.begin() as writing:
        writing.add(WorkerRow(name="a", started_at=clock(writing), seen_at=clock(writing)))
        writing.flush()
        with sessions.read() as reading:
            assert reading.scalars(select(WorkerRow)).all() == []


def test_a_connection_that_the_database_closed_is_replaced(sessions: Sessions) -> None:
    if not _is_postgresql(sessions):
        pytest.skip("SQLite has no server that could close a connection")
    with sessions.read() as session:
        pid = session.scalar(text("SELECT pg_backend_pid()"))
    other = Sessions(sessions.engine.execution_options())
    with other.begin() as session:
        assert session.scalar(text("SELECT pg_backend_pid()")) == pid, "there is one connection in the pool"
    killer = open_sessions(sessions.engine.url.render_as_string(hide_password=False))
    with killer.begin() as session:
        session.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})
    killer.dispose()
    with sessions.read() as session:
        assert session.scalar(text("SELECT pg_backend_pid()")) != pid


def test_sqlite_is_set_up_on_every_connection(tmp_path: Path) -> None:
    sessions = open_sessions(f"sqlite:///{tmp_path / 'x.db'}")
    for _ in range(2):
        with sessions.read() as session:
            values = {
                name: session.scalar(text(f"PRAGMA {name}"))
                for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout", "journal_size_limit")
            }
        assert values == {
            "journal_mode": "wal",
            "synchronous": 2,
            "foreign_keys": 1,
            "busy_timeout": 30_000,
            "journal_size_limit": 67_108_864,
        }
        sessions.dispose()


def test_texts_are_made_storable() -> None:
    assert storable("a\x00b\ud800c", 10) == "a\ufffdb?c"
    assert storable("abcdef", 4) == "abc…"
    assert storable("abcd", 4) == "abcd"


def _is_postgresql(sessions: Sessions) -> bool:
    return sessions.engine.dialect.name == "postgresql"

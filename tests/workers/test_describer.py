"""The describer of a worker, when what it depends on fails: it gives back, and it gives up."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from app.access.projects import ensure_project
from app.settings import Settings
from app.store import descriptions
from app.store.blobs import BlobDamaged, BlobMissing, write_bytes
from app.store.descriptions import Ask
from app.store.engine import Sessions, clock
from app.store.objects import StorageUnavailable
from app.store.tables import DescriptionRow
from app.store.uploads import put_upload
from workers import describer
from workers.describer import Describer

ONE_SETUP = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
OWNER = "here:1/descriptions"


def ask(sessions: Sessions, content: bytes = b"no samples") -> str:
    blob = write_bytes(sessions, content)
    with sessions.begin() as session:
        put_upload(session, "dataset", blob, None, clock(session))
        descriptions.ask(session, "dataset", blob.sha256, 1, clock(session))
    return blob.sha256


def row(sessions: Sessions, upload_id: str) -> DescriptionRow:
    with sessions.read() as session:
        return session.get_one(DescriptionRow, (sessions.project_id, "dataset", upload_id))


def take(sessions: Sessions, after: timedelta = timedelta()) -> Ask | None:
    """What `OWNER` takes, for a minute, so long after now."""
    with sessions.begin() as session:
        now = clock(session) + after
        return descriptions.take(session, OWNER, now, now + timedelta(minutes=1))


@pytest.fixture
def idle(settings: Settings, sessions: Sessions) -> Describer:
    """A describer whose thread is not started: what it does, it does in the test's."""
    return Describer(settings, sessions, OWNER)


def failing(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def fetch(*_: Any) -> None:
        raise error

    monkeypatch.setattr(describer, "open_blob_to_file", fetch)


@ONE_SETUP
@pytest.mark.parametrize("error", [BlobDamaged("other digest"), BlobMissing("7"), RuntimeError("a mistake of ours")])
def test_what_fails_each_time_is_given_back_and_then_given_up(
    idle: Describer, sessions: Sessions, settings: Settings, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    failing(monkeypatch, error)
    upload = ask(sessions)
    states = []
    for _ in range(settings.max_attempts):
        taken = idle._take()
        assert taken is not None, "it was not given back"
        idle._make(taken)
        states.append(row(sessions, upload).state)
    assert states == [*["pending"] * (settings.max_attempts - 1), "failed"]
    assert row(sessions, upload).problem_code == "worker_lost"
    assert idle._take() is None


@ONE_SETUP
def test_a_storage_that_is_away_is_waited_for_until_the_lease_ends(
    idle: Describer, sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, StorageUnavailable("no answer"))
    upload = ask(sessions)
    taken = take(sessions)
    assert taken is not None
    with pytest.raises(StorageUnavailable):
        idle._make(taken)
    assert row(sessions, upload).state == "pending"
    assert take(sessions) is None
    again = take(sessions, after=timedelta(minutes=2))
    assert again is not None
    assert again.attempts == 2


@ONE_SETUP
def test_what_took_down_every_worker_is_looked_into_by_no_other(
    idle: Describer, sessions: Sessions, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = ask(sessions)
    for _ in range(settings.max_attempts):
        assert take(sessions) is not None
        with sessions.begin() as session:
            descriptions.give_back(session, OWNER)  # as who finds the worker dead does

    def start(*_: Any) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr(describer, "Child", start)
    taken = idle._take()
    assert taken is not None
    idle._make(taken)
    assert (row(sessions, upload).state, row(sessions, upload).problem_code) == ("failed", "worker_lost")
    assert f"{settings.max_attempts} attempts" in str(row(sessions, upload).problem_detail)


@ONE_SETUP
def test_a_worker_that_is_stopped_costs_no_attempt(idle: Describer, sessions: Sessions) -> None:
    upload = ask(sessions)
    idle.close()
    taken = idle._take()
    assert taken is not None
    idle._make(taken)
    left = row(sessions, upload)
    assert (left.state, left.owner, left.attempts) == ("pending", None, 0)


def test_work_at_one_file_keeps_no_other(sessions: Sessions) -> None:
    ask(sessions, b"left behind")
    first = take(sessions)
    ask(sessions, b"at work")
    second = take(sessions)
    assert first is not None
    assert second is not None
    assert first.upload_id != second.upload_id
    with sessions.begin() as session:
        assert descriptions.keep(session, second, OWNER, clock(session) + timedelta(hours=1))
    assert take(sessions, after=timedelta(minutes=2)) is not None
    assert take(sessions, after=timedelta(minutes=2)) is None


def test_projects_take_turns(sessions: Sessions) -> None:
    mine = [ask(sessions, content) for content in (b"1", b"2", b"3")]
    project = ensure_project(sessions, "theirs")
    theirs = [ask(sessions.of(project.id), content) for content in (b"4", b"5")]
    turns = []
    while (taken := take(sessions)) is not None:
        with sessions.begin() as session:
            turns.append(taken.upload_id)
            descriptions.end(session, taken, OWNER, {"state": "failed", "problem_code": "dataset_invalid"})
    assert turns == [mine[0], theirs[0], mine[1], theirs[1], mine[2]]


@ONE_SETUP
def test_the_time_limit_is_that_of_looking_and_not_of_fetching(
    idle: Describer, sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = [0.0]
    fetched = describer.open_blob_to_file

    def fetch(given: Any, blob: Any, path: Any, check: Callable[[], None]) -> Any:
        late[0] += 2 * describer.MOST_SECONDS
        check()
        return fetched(given, blob, path, check)

    monkeypatch.setattr(describer, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + late[0]))
    monkeypatch.setattr(describer, "open_blob_to_file", fetch)
    upload = ask(sessions)
    taken = idle._take()
    assert taken is not None
    idle._make(taken)
    assert row(sessions, upload).problem_code == "dataset_invalid"  # it was read

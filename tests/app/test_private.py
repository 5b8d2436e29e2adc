from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.embedded import HomeLock
from app.lifecycle import presence
from app.lifecycle.messages import celery_app
from app.settings import Settings
from app.store.engine import open_sessions
from app.store.migrate import upgrade
from app.store.private import private_file, private_folder
from app.store.tables import WorkerRow
from app.store.temporary import work_folder


@pytest.fixture(autouse=True)
def _usual_umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


def _mode(path: Path) -> str:
    return oct(path.stat().st_mode & 0o777)


def test_every_missing_folder_above_is_private_too(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    assert private_folder(tmp_path / "a" / "b") == tmp_path / "a" / "b"
    assert [_mode(path) for path in (tmp_path, tmp_path / "a", tmp_path / "a" / "b")] == ["0o755", "0o700", "0o700"]


def test_a_file_in_the_place_of_a_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("x")
    with pytest.raises(FileExistsError):
        private_folder(tmp_path / "home")


def test_a_file_with_contents_keeps_its_rights_and_an_empty_one_does_not(tmp_path: Path) -> None:
    (tmp_path / "full").write_text("x")
    (tmp_path / "empty").touch()
    for name in ("full", "empty", "new"):
        private_file(tmp_path / name)
    assert {path.name: _mode(path) for path in tmp_path.iterdir()} == {
        "full": "0o644",
        "empty": "0o600",
        "new": "0o600",
    }
    assert (tmp_path / "full").read_text() == "x"


def test_nothing_in_a_home_is_readable_by_others(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "home", tmp_dir=tmp_path / "elsewhere" / "tmp")
    lock = HomeLock(settings.home)
    assert lock.acquire()
    upgrade(settings.database_url)
    celery_app(settings)
    sessions = open_sessions(settings.database_url)
    presence.seen(sessions, "worker")
    with work_folder(settings.tmp_dir) as folder, sessions.read() as session:
        assert session.get(WorkerRow, "worker")
        files = [path for path in settings.home.iterdir() if path.is_file()]
        assert {path.name for path in files} >= {"bitbudget.db", "bitbudget.db-wal", "worker.lock"}
        assert {_mode(path) for path in files} == {"0o600"}
        folders = [settings.home, settings.broker_folder, *settings.broker_folder.iterdir()]
        folders += [folder, settings.tmp_dir, settings.tmp_dir.parent]
        assert {_mode(path) for path in folders} == {"0o700"}
    sessions.dispose()
    lock.release()

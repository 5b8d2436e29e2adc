"""Jobs that a command waits for: each is cancelled when its command is gone, however that ended.

A command holds a lock of the kernel on a file whose name is the Idempotency-Key of its job. No lock outlives its
process, so a job whose file nobody has locked is abandoned: nobody waits for it, and nobody should wait behind it. What
its stages have stored is found again by the next job that asks the same.
"""

from __future__ import annotations

import fcntl
import uuid
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO

from app.errors import AppError
from app.services import jobs
from app.store.engine import Sessions
from app.store.idempotency import find_job_of_key
from app.store.private import private_folder
from app.store.tables import DEFAULT_PROJECT


class CommandJob:
    """The job of this process, as a context manager: whatever ends the block ends the job, if that has not ended.

    Send `key` as the Idempotency-Key of the request that makes it.
    """

    def __init__(self, sessions: Sessions, home: Path) -> None:
        self.key = uuid.uuid4().hex
        self._sessions = sessions
        self._path = _folder(home) / self.key
        self._held = ExitStack()

    def __enter__(self) -> CommandJob:
        private_folder(self._path.parent)
        hidden = self._path.with_name(f".{self.key}")
        _lock(self._held.enter_context(hidden.open("w")))
        hidden.rename(self._path)  # only now: nobody sees it without its lock
        return self

    def __exit__(self, *_: object) -> None:
        with self._held:
            _cancel(self._sessions, self.key)
            self._path.unlink(missing_ok=True)


def cancel_abandoned(sessions: Sessions, home: Path) -> None:
    """Cancel the jobs of commands of this home that are gone."""
    for path in _folder(home).glob("[!.]*"):
        with suppress(FileNotFoundError), path.open() as file:
            if _lock(file):
                _cancel(sessions, path.name)
                path.unlink(missing_ok=True)


def _folder(home: Path) -> Path:
    return home / "commands"


def _lock(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _cancel(sessions: Sessions, key: str) -> None:
    of_project = sessions.of(DEFAULT_PROJECT)
    with of_project.read() as session:
        job_id = find_job_of_key(session, key)
    if job_id is not None:
        with suppress(AppError):  # it has ended, or was removed
            jobs.cancel(of_project, job_id)

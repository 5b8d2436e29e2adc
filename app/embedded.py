"""What the embedded mode runs besides the HTTP server: one worker, the dispatcher, and the home's lock."""

from __future__ import annotations

import fcntl
import logging
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO

from app.command_jobs import CommandJob, cancel_abandoned
from app.dispatcher import Dispatcher
from app.lifecycle import recovery
from app.lifecycle.messages import waker
from app.settings import Settings
from app.store.engine import open_sessions
from app.store.private import private_file
from app.supervisor import WorkerProcess, owner_prefix

logger = logging.getLogger(__name__)


class HomeLock:
    """Held by the one process that may run a worker on the broker of files in a home.

    A lock of the kernel and no file with a number in it: it is gone when its holder is, however that ended.
    """

    def __init__(self, home: Path) -> None:
        self.path = home / "worker.lock"
        self._file: IO[str] | None = None

    def acquire(self) -> bool:
        """Take the lock; False when another process has it."""
        private_file(self.path)
        file = self.path.open("a+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return False
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        self._file = file
        return True

    def keep_across_exec(self) -> None:
        """Let the program that replaces this one hold the lock."""
        if self._file is not None:
            os.set_inheritable(self._file.fileno(), True)

    def holder(self) -> str:
        """The process that holds the lock, in words; only for a message."""
        try:
            return f"process {self.path.read_text() or 'unknown'}"
        except OSError:
            return "another process"

    def release(self) -> None:
        """Let go of the lock; does nothing when it is not held."""
        if self._file is not None:
            self._file.close()
            self._file = None


def needs_lock(settings: Settings) -> bool:
    """Whether only one worker may run with these settings: kombu's broker of files is made for one consumer."""
    return settings.broker_url.startswith("filesystem:")


class Embedded:
    """A worker process and the dispatcher, between `start` and `stop`.

    Args:
        settings: of a database with the current schema.
        worker_arguments: more arguments for the worker.
        worker_log: file for the worker's log; None: standard error.
    """

    def __init__(
        self, settings: Settings, *, worker_arguments: Sequence[str] = (), worker_log: Path | None = None
    ) -> None:
        self._settings = settings
        self._lock = HomeLock(settings.home)
        self._sessions = open_sessions(settings.database_url, settings.objects())
        self._wake = waker(settings)
        self._started = False
        self.worker = WorkerProcess(settings, self._worker_ended, arguments=worker_arguments, log=worker_log)
        self._dispatcher = Dispatcher(settings, self._sessions, self._wake)
        self._dispatching = threading.Thread(target=self._dispatcher.run, name="dispatcher", daemon=True)

    def start(self) -> bool:
        """Start both, once; False, and nothing started, while another process runs the worker of this home.

        Jobs of commands that are gone are cancelled in any case.
        """
        if self._started:
            return True
        cancel_abandoned(self._sessions, self._settings.home)
        if needs_lock(self._settings) and not self._lock.acquire():
            return False
        if needs_lock(self._settings) and self._settings.database_url.startswith("sqlite"):
            # This home's only worker is yet to start, so whoever holds a job is dead: a killed server, a lost machine.
            self._take_back("")
        self._started = True
        self.worker.start()
        self._dispatching.start()
        return True

    def command_job(self) -> CommandJob:
        """The job that this process waits for; see there."""
        return CommandJob(self._sessions, self._settings.home)

    def stop(self) -> None:
        """Stop both, the worker in good order."""
        self._dispatcher.stop()
        if self._started:
            self._dispatching.join()
            self.worker.stop()
        self._lock.release()
        self._sessions.dispose()

    def __enter__(self) -> Embedded:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def lock_holder(self) -> str:
        """Who else runs the worker of this home, in words."""
        return self._lock.holder()

    def _worker_ended(self, name: str) -> None:
        # Its lease would expire in time; but the worker is known to be dead, and nobody has to wait.
        self._take_back(owner_prefix(name))

    def _take_back(self, prefix: str) -> None:
        reaped = recovery.reap_worker(self._sessions, prefix, self._settings.max_attempts)
        for job_id in reaped.requeued:
            logger.warning("job %s lost its worker and is queued again", job_id)
            self._wake()

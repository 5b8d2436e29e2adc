"""One worker as a child process, started again when it ends, and gone when this process is gone."""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from app.settings import PREFIX, Settings

logger = logging.getLogger(__name__)

STOP_SECONDS = 15.0
"""More than `workers.presence.STOP_SECONDS`, within which a worker gives its job back."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """Pauses before a worker is started again: doubled each time, from `first` to `longest` seconds.

    A worker that lived for `healthy` seconds starts the series anew.
    """

    first: float = 0.2
    longest: float = 30.0
    healthy: float = 60.0

    def after(self, pause: float, lived: float) -> float:
        """The next pause, in seconds, after one of `pause` (0: none yet) and a worker that lived for `lived`."""
        if pause == 0 or lived >= self.healthy:
            return self.first
        return min(2 * pause, self.longest)


def host_prefix() -> str:
    """What the names of all workers of this host (of this container) begin with."""
    return f"{socket.gethostname()}:"


def new_worker_name() -> str:
    """A name that no other worker has, now or later: host, process and chance."""
    return f"{host_prefix()}{os.getpid()}:{secrets.token_hex(4)}"


def owner_prefix(worker: str) -> str:
    """What the owners of all jobs of this worker begin with, and those of no other."""
    return f"{worker}/"


def owner_name(worker: str, pid: int) -> str:
    """The owner of the jobs of one child process of a worker; no other owner begins with it."""
    return f"{owner_prefix(worker)}{pid}/"


def worker_command(arguments: Sequence[str] = ()) -> list[str]:
    """The command line of a worker. `app` may not import `workers`, which brings torch; a process of its own may."""
    # -P: the working folder is the user's, and may have a folder `workers` or `app`.
    return [sys.executable, "-P", "-m", "workers", *arguments]


def worker_environment(settings: Settings) -> dict[str, str]:
    """The environment of a child process with exactly these settings."""
    inherited = {name: value for name, value in os.environ.items() if not name.upper().startswith(PREFIX)}
    return inherited | settings.environment()


class WorkerProcess:
    """Keeps one worker running between `start` and `stop`.

    The worker reads a pipe whose other end only this process holds. When this process ends, however it ends, the
    worker ends with its children.

    Args:
        arguments: more arguments for `python -m workers`.
        log: file to which the worker's log is appended; None: standard error.
        on_end: called with the worker's name each time when a worker has ended, before the next one starts.
    """

    def __init__(
        self,
        settings: Settings,
        on_end: Callable[[str], None],
        *,
        arguments: Sequence[str] = (),
        log: Path | None = None,
        backoff: Backoff | None = None,
    ) -> None:
        self._settings = settings
        self._on_end = on_end
        self._arguments = tuple(arguments)
        self._log = log
        self._backoff = backoff or Backoff()
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._run, name="worker-supervisor", daemon=True)

    def start(self) -> None:
        """Start the first worker."""
        self._thread.start()

    def stop(self) -> None:
        """Stop the worker: politely, then not."""
        with self._lock:
            self._stopping.set()
            process = self._process
        if process is not None and process.poll() is None:
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                logger.warning("the worker did not stop within %.0f s and is killed", STOP_SECONDS)
                _kill_group(process)
        self._thread.join()

    def _run(self) -> None:
        pause = 0.0
        while True:
            name = new_worker_name()
            with self._lock:
                if self._stopping.is_set():
                    return
                started = time.monotonic()
                try:
                    self._process = process = self._spawn(name)
                except OSError as error:  # no memory for a process, no room for its log: both may end
                    logger.error("the worker cannot be started: %s", error)
                    process = None
            status = -1 if process is None else _wait(process)
            try:
                self._on_end(name)
            except Exception:
                # What the worker held is taken back when its lease ends; the next worker is needed in any case.
                logger.exception("the jobs of the worker %s are not taken back at once", name)
            if self._stopping.is_set():
                return
            pause = self._backoff.after(pause, time.monotonic() - started)
            logger.error("the worker ended with status %d and is started again in %.1f s", status, pause)
            self._stopping.wait(pause)

    def _spawn(self, name: str) -> subprocess.Popen[bytes]:
        with ExitStack() as stack:
            log = None if self._log is None else stack.enter_context(self._log.open("ab"))
            return subprocess.Popen(  # noqa: S603 - our own command line
                worker_command(["--watched", "--name", name, *self._arguments]),
                env=worker_environment(self._settings),
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                # A group of its own: Ctrl-C is for this process, which then stops the worker in order.
                start_new_session=True,
            )


def _wait(process: subprocess.Popen[bytes]) -> int:
    """The status with which the worker ends; then nothing is left of it."""
    status = process.wait()
    _kill_group(process)
    if process.stdin is not None:
        process.stdin.close()
    return status


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """End what is left of the worker's process group."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.wait()

"""The process that runs models, from outside: started, spoken to, measured, and killed."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

import psutil

from app.settings import Settings
from app.store.temporary import work_folder
from workers.child_output import Output
from workers.limits import tasks_of_this_user, thread_count
from workers.sandbox import environment, walls
from workers.wire import Wire, WireBroken, WireClosed

logger = logging.getLogger(__name__)

START_SECONDS = 180.0
JOBS = 8
"""Arenas of the allocators grow with every model and are not given back."""

MOST_HELD = 0.5
"""Of its memory. ONNX Runtime keeps what it had when that ran out, and the next job finds no room for its threads."""

CPU_SECONDS = 7 * 24 * 3600
"""A bound behind the limits of the stages, which the worker enforces by the clock."""


class ChildGone(Exception):
    """The process ended by itself, or never became ready."""


class Child:
    """One process for the jobs of one project, and the folder that it may write to.

    Start it from the worker's first thread: the kernel kills a child when the *thread* that started it ends.
    """

    def __init__(self, settings: Settings, pipeline: str) -> None:
        self._stack = ExitStack()
        self.project_id: str | None = None
        self.jobs = 0
        self.folder = self._stack.enter_context(work_folder(settings.tmp_dir))
        ours, theirs = socket.socketpair()
        threads = thread_count(settings.worker_threads)
        command = [
            *walls(settings, self.folder),
            *(sys.executable, "-P", "-m", "workers.child", "--fd", str(theirs.fileno()), "--pipeline", pipeline),
            *(
                "--tasks",
                str(tasks_of_this_user()),
                "--file-bytes",
                str(_largest_file(settings)),
                "--cpu-seconds",
                str(threads * CPU_SECONDS),
            ),
        ]
        if command[0] == sys.executable:
            command += ["--parent", str(os.getpid())]  # bubblewrap sees to it itself
        if settings.worker_memory_bytes is not None:
            command += ["--memory-bytes", str(settings.worker_memory_bytes)]
        reading, writing = os.pipe()
        with theirs, os.fdopen(writing, "wb") as output:
            self._process = subprocess.Popen(  # noqa: S603 - our own command line
                command,
                env=environment(threads, self.folder),
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=[theirs.fileno()],
                # A signal from the terminal is for the worker, which then ends it in order.
                start_new_session=True,
            )
        self._output = Output(os.fdopen(reading, "rb"), self._process.pid)
        self.wire = Wire(ours, limit_bytes=_largest_file(settings))
        self._started = time.monotonic()
        self._ready = False
        self._memory_bytes = settings.worker_memory_bytes

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def fits(self, project_id: str) -> bool:
        """Whether it may take a job of this project: what one job did to it, no job of another project shall meet."""
        return self.alive and self.jobs < JOBS and self.project_id in (None, project_id) and self.has_room

    @property
    def has_room(self) -> bool:
        """Whether earlier jobs gave back their memory; of what the kernel's limit is about (`workers.child.limits`)."""
        return self._memory_bytes is None or self.memory_bytes("data") <= MOST_HELD * self._memory_bytes

    def wait_until_ready(self, check: Callable[[], None]) -> None:
        """Wait until it has loaded the pipeline.

        Raises:
            ChildGone: it ended, or took more than `START_SECONDS`.
        """
        self.wire.check = check
        while not self._ready:
            check()
            try:
                message = self.wire.receive()
            except (WireClosed, WireBroken) as error:
                raise ChildGone(self.ending()) from error
            if message is not None:
                self._ready = message.header == {"do": "ready"}
            elif time.monotonic() > self._started + START_SECONDS:
                raise ChildGone(f"was not ready after {START_SECONDS:.0f} s")

    def new_folder(self) -> Path:
        """An empty folder for the next job; what earlier jobs left is removed.

        Raises:
            ChildGone: it cannot be removed, so that the process is of no more use.
        """
        try:
            for entry in self.folder.iterdir():
                shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
        except (OSError, RecursionError) as error:
            raise ChildGone(f"left what cannot be removed ({type(error).__name__})") from error
        self.jobs += 1
        self._output.renew()
        folder = self.folder / f"job-{self.jobs}"
        folder.mkdir(mode=0o700)
        return folder

    def memory_bytes(self, what: str = "rss") -> int:
        """Memory of the process and of all that it started, as the kernel counts it."""
        try:
            process = psutil.Process(self.pid)
            return sum(_memory(member, what) for member in (process, *process.children(recursive=True)))
        except psutil.NoSuchProcess:
            return 0

    def ending(self) -> str:
        """How it ended, in words; it is given a moment to."""
        try:
            status = self._process.wait(2.0)
        except subprocess.TimeoutExpired:
            return "closed its socket"
        return f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"

    def kill(self) -> None:
        """End it now, whatever it does, and remove its folder."""
        self.wire.close()
        # With what it has started, but for what has left its session; that dies with the namespace of processes, if
        # there are walls.
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        try:
            self._stack.close()
        except (OSError, RecursionError) as error:  # a job may forbid to look into its folders; the sweep tries again
            logger.warning("the folder of process %d is left for the sweep: %s", self.pid, error)


def _largest_file(settings: Settings) -> int:
    return 2 * max(settings.max_model_bytes, settings.max_dataset_bytes)


def _memory(process: psutil.Process, what: str) -> int:
    try:
        return int(getattr(process.memory_info(), what))
    except psutil.NoSuchProcess:
        return 0

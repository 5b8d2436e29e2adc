"""What a job may use, seen from its worker: memory, threads, and the clock."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

MIB = 1024**2

SMALLEST_MEMORY_LIMIT_BYTES = 1024 * MIB
"""torch and ONNX Runtime take 360 MiB of data segment before the first weight (measured); below this no job fits."""

MEMORY_SLACK = 1.25
"""By how much the resident memory may exceed the limit, which counts private memory: mapped files come on top."""

LOOK_SECONDS = 0.5


class ChildTooLarge(Exception):
    """A child has more memory than it may, although its own limit should have stopped it."""

    def __init__(self, resident_bytes: int, limit_bytes: int) -> None:
        super().__init__(f"{resident_bytes} bytes resident, with a limit of {limit_bytes}")


class MemoryWatch:
    """Asks for the memory of a child, now and then.

    Args:
        limit_bytes: None: no limit, and nothing is asked.
    """

    def __init__(self, resident_bytes: Callable[[], int], limit_bytes: int | None) -> None:
        self._resident_bytes = resident_bytes
        self._limit = limit_bytes
        self._look_at = 0.0

    def check(self) -> None:
        """Raise `ChildTooLarge` if the child has too much."""
        if self._limit is None or time.monotonic() < self._look_at:
            return
        self._look_at = time.monotonic() + LOOK_SECONDS
        resident = self._resident_bytes()
        if resident > MEMORY_SLACK * self._limit + 256 * MIB:
            raise ChildTooLarge(resident, self._limit)


def check_memory_limit(limit_bytes: int | None) -> None:
    """Refuse a limit under which no job can run.

    Raises:
        ValueError: the limit is below `SMALLEST_MEMORY_LIMIT_BYTES`.
    """
    if limit_bytes is not None and limit_bytes < SMALLEST_MEMORY_LIMIT_BYTES:
        raise ValueError(
            f"a worker needs at least {SMALLEST_MEMORY_LIMIT_BYTES} bytes of memory, got a limit of {limit_bytes}; "
            "raise BITBUDGET_WORKER_MEMORY_BYTES or unset it"
        )


def thread_count(configured: int | None) -> int:
    """Threads for one job: as configured, else every core that this process may run on."""
    return configured if configured is not None else len(os.sched_getaffinity(0))


def tasks_of_this_user() -> int:
    """Processes and threads of this user, which is what RLIMIT_NPROC counts."""
    count = 0
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if process.stat().st_uid == os.getuid():
                count += len(list((process / "task").iterdir()))
        except OSError:
            continue  # it has ended
    return count

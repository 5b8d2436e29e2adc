"""What the process that works on a job may use: memory, threads, and no longer than its worker lives."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
import threading
from collections.abc import Callable

MIB = 1024**2

SMALLEST_MEMORY_LIMIT_BYTES = 1024 * MIB
"""torch and ONNX Runtime take 360 MiB of data segment before the first weight (measured); below this no job fits."""

WATCH_SECONDS = 0.5


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


def limit_memory(limit_bytes: int) -> None:
    """Let allocations of this process fail once it holds `limit_bytes` of private writable memory.

    RLIMIT_DATA and not RLIMIT_AS: the address space also counts mapped files and what allocators only reserve, which
    torch and CUDA do by the gigabyte. A failing allocation is an error that the job can report (`workers.failures`);
    without a limit the kernel kills the process, or another one.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = limit_bytes if hard == resource.RLIM_INFINITY else min(limit_bytes, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))


def thread_count(configured: int | None) -> int:
    """Threads for one job: as configured, else every core that this process may run on."""
    return configured if configured is not None else len(os.sched_getaffinity(0))


def watch(parent: int, on_stop: Callable[[], object], on_orphaned: Callable[[], object]) -> threading.Thread:
    """Call `on_stop` when this process is asked to end (SIGTERM), and `on_orphaned` once `parent` is gone.

    Both from a thread, because the main thread may be inside native code for minutes and Python runs signal handlers
    only between two of its own instructions. Call it from the main thread before other threads exist: they inherit
    that SIGTERM is blocked, which leaves it to the watching thread.

    Celery asks the kernel to kill a child whose parent ends (PR_SET_PDEATHSIG). That signal comes when the *thread*
    that started the child ends, and a child that replaces a retired one was started by a thread that ends a second
    after an orderly shutdown begins, with the job still in the child (measured). So it is switched off here.
    """
    _forget_parent_death_signal()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

    def wait() -> None:
        while os.getppid() == parent:
            if signal.sigtimedwait({signal.SIGTERM}, WATCH_SECONDS) is not None:
                on_stop()
        on_orphaned()

    thread = threading.Thread(target=wait, name="parent-watch", daemon=True)
    thread.start()
    return thread


def _forget_parent_death_signal() -> None:
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None, use_errno=True).prctl(pr_set_pdeathsig, 0, 0, 0, 0)

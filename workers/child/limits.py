"""What the process that runs models may use, set before anything is loaded or parsed."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
from dataclasses import dataclass

OPEN_FILES = 1024
MORE_TASKS = 512
"""Processes and threads beside those that the user has already; a job starts some ten for each core."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one child. `memory_bytes`: private writable memory, None: no limit. `file_bytes`: of one file. `tasks`: those
    that the user has already, which the kernel counts too."""

    memory_bytes: int | None
    file_bytes: int
    cpu_seconds: int
    tasks: int


def apply_limits(limits: Limits) -> None:
    """Let what exceeds the limits fail: an allocation, a write, a process, an open file; CPU time ends the process.

    RLIMIT_DATA and not RLIMIT_AS: the address space also counts mapped files and what allocators only reserve, which
    torch and CUDA do by the gigabyte. A failing allocation is an error that the job can report.
    """
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_NOFILE, OPEN_FILES)
    _limit(resource.RLIMIT_FSIZE, limits.file_bytes)
    _limit(resource.RLIMIT_CPU, limits.cpu_seconds)
    _limit(resource.RLIMIT_NPROC, limits.tasks + MORE_TASKS)
    if limits.memory_bytes is not None:
        _limit(resource.RLIMIT_DATA, limits.memory_bytes)


def die_with_parent(parent: int) -> None:
    """Let the kernel kill this process when the thread that started it ends, which is the worker's first."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None, use_errno=True).prctl(pr_set_pdeathsig, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it ended before the line above
        os._exit(1)


def _limit(what: int, value: int) -> None:
    _, hard = resource.getrlimit(what)
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(what, (value, value))

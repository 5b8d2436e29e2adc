"""What native code prints to the C library's standard output, dropped.

HiGHS 1.12, in SciPy 1.17, prints "HighsMipSolverData::transformNewIntegerFeasibleSolution tmpSolver.run();" whatever
its options say (HiGHS issue 2783). In a worker that is noise in the log, and on a command line it gets into the output.
"""

from __future__ import annotations

import ctypes
import functools
import platform
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_LOCK = threading.Lock()
_inside = 0
_own: int | None = None


@contextmanager
def native_output_dropped() -> Iterator[None]:
    """Within this, `printf` of native code writes nowhere; where the C library is not glibc, nothing changes.

    Only the C library's variable `stdout` is exchanged: file descriptor 1 stays, so what Python prints meanwhile, in
    other threads too, is not lost.
    """
    global _inside, _own
    streams = _streams()
    if streams is None:
        yield
        return
    stdout, nowhere = streams
    with _LOCK:
        if _inside == 0:
            _own, stdout.value = stdout.value, nowhere
        _inside += 1
    try:
        yield
    finally:
        with _LOCK:
            _inside -= 1
            if _inside == 0:
                stdout.value = _own


@functools.cache
def _streams() -> tuple[ctypes.c_void_p, int] | None:
    """The variable `stdout`, and a stream to nowhere; elsewhere than in glibc the variable may be a constant."""
    if platform.libc_ver()[0] != "glibc":
        return None
    library = ctypes.CDLL(None)
    library.fopen.restype = ctypes.c_void_p
    nowhere = library.fopen(b"/dev/null", b"w")
    return None if nowhere is None else (ctypes.c_void_p.in_dll(library, "stdout"), nowhere)

"""The process that runs jobs: its threads, and memory that nobody needs any more.

What a stage leaves in cycles of references waits for Python's collector, which counts objects and knows nothing of
their size; and what was freed stays with the allocator. Both were some float files between two stages.

The C library gives large arrays pages of their own, which go back when the array is freed, but raises the size from
which on it does so with each that is freed, to 32 MB at last. Below it a freed array is a hole in the heap, which
smaller ones keep open. So that size is fixed. (With 1 MB in place of 16 a job on a file of 38 MB held 30 to 70 MB less,
and one on a network of 270,000 weights took 7 % longer, for pages that are given back and fetched again.)
"""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Of `mallopt` (malloc.h): how much may lie free at the end of the heap, and from which size on memory is mapped."""
TRIMMED_BYTES, MAPPED_BYTES = 32 << 20, 16 << 20


def settle(threads: int) -> None:
    """Before the first job, with everything imported.

    Args:
        threads: of torch within an operator, where it is imported.
    """
    gc.collect()
    gc.freeze()  # what is imported stays: to look through it took 0.14 s each time
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_TRIM_THRESHOLD, TRIMMED_BYTES)
        mallopt(M_MMAP_THRESHOLD, MAPPED_BYTES)
    torch = sys.modules.get("torch")  # a pipeline without torch (in tests) does not pay two seconds for it
    if torch is not None:
        torch.set_num_threads(threads)
        # Layers run one after the other; a second pool of threads would only fight the first for the cores.
        torch.set_num_interop_threads(1)


@contextmanager
def left_alone() -> Iterator[None]:
    """The collector looks through nothing that exists now, until the end, or as before where some of it is left alone
    already: a job collects at the end of every stage, and what somebody else has imported and made takes long."""
    if gc.get_freeze_count():
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def release() -> None:
    """Collect what is unreachable, and give freed pages back where the C library can (glibc)."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)

"""Memory that nobody needs any more, given back to the system between stages.

What a stage leaves in cycles of references waits for Python's collector, which counts objects and knows nothing of
their size; and what was freed stays with the allocator. Both were some float files between two stages.
"""

from __future__ import annotations

import ctypes
import gc


def release() -> None:
    """Collect what is unreachable, and give freed pages back where the C library can (glibc)."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)

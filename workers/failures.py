"""From an exception to what the job says: a code of the catalogue and a text with a remedy."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from app.errors import CATALOGUE, AppError

GIB = 1024**3

# What the allocators of torch and ONNX Runtime say; both raise errors of their own instead of MemoryError.
_ALLOCATION_TEXTS = (
    "can't allocate memory",
    "cannot allocate memory",
    "failed to allocate memory",
    "not enough memory",
    "out of memory",
    "bad_alloc",
    "bad allocation",
)


class StageTimeLimit(Exception):
    """A stage ran longer than the table of stages allows."""

    def __init__(self, stage: str, limit: timedelta) -> None:
        super().__init__(stage, limit)
        self.stage = stage
        self.limit = limit


@dataclass(frozen=True, slots=True)
class Failure:
    """How a job ends that cannot be finished: a stable code, and a text that says what to do.

    `fault` marks a mistake of the service, whose traceback, `text`, belongs in the log.
    """

    code: str
    detail: str
    fault: bool = False
    text: str = ""


def failure(error: Exception, stage: str, memory_limit_bytes: int | None) -> Failure:
    """What a job says whose `stage` raised `error`.

    Errors of the libraries are `ValueError`s with a class attribute `code`: their text is meant for the user. The text
    of any other error, also one whose code the catalogue does not know, may hold paths and internals and stays in the
    log.
    """
    code = getattr(type(error), "code", None)
    if isinstance(error, ValueError) and code in CATALOGUE:
        return Failure(str(code), str(error))
    if isinstance(error, AppError):
        return Failure(error.code, error.detail)
    if _is_allocation_failure(error):
        return Failure("out_of_memory", _memory_text(stage, memory_limit_bytes))
    if isinstance(error, StageTimeLimit):
        return Failure(
            "time_limit",
            f"The stage {error.stage} took longer than {error.limit}, which grows with the bytes of the model and its "
            "samples. Send fewer samples, fewer candidate bit widths, or set search.deadline_seconds to take the best "
            "plan found by then.",
        )
    return Failure(
        "internal",
        f"The stage {stage} failed because of an internal error ({type(error).__name__}), not because of the request. "
        "The log of the worker has the details under the id of this job; the uploads are kept, so the job can be sent "
        "again.",
        fault=True,
    )


def _is_allocation_failure(error: Exception) -> bool:
    if isinstance(error, MemoryError):
        return True
    # RuntimeError by torch; ONNX Runtime's classes derive from Exception directly. Any other class with such a text
    # (OSError: "Cannot allocate memory" when no process can be started) means the same.
    text = str(error).lower()
    return any(phrase in text for phrase in _ALLOCATION_TEXTS)


def _memory_text(stage: str, limit_bytes: int | None) -> str:
    limit = "that its worker has" if limit_bytes is None else f"of {limit_bytes / GIB:.1f} GiB that its worker may use"
    return (
        f"The stage {stage} needs more than the memory {limit}. Send fewer or smaller samples, or run a worker with "
        "more memory (BITBUDGET_WORKER_MEMORY_BYTES)."
    )

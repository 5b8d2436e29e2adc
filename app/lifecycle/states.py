"""States of a job and the values that pass between the database and a worker."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the database: these values also stand in the API's answers, which need none
    from app.store.blobs import BlobRef


class JobState(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        return self not in (JobState.QUEUED, JobState.RUNNING)


class Outcome(StrEnum):
    """How a succeeded job answered its budget. Best effort is delivered in every case."""

    MET = "met"
    NOT_MET = "not_met"
    DEADLINE = "deadline"


class Heartbeat(StrEnum):
    """What a worker learns when it says that it is alive."""

    ALIVE = "alive"
    CANCEL_REQUESTED = "cancel_requested"
    """Stop and call `cancelled`."""
    LOST = "lost"
    """The job is somebody else's or over: stop, and write nothing."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A job that one worker holds. (job_id, owner, attempt) is the fence of everything that the worker writes."""

    job_id: str
    project_id: str
    owner: str
    attempt: int
    model_id: str
    """Digest of the uploaded model; `app.store.uploads.find_upload` has its blob."""
    dataset_id: str | None
    parent_id: str | None
    request: dict[str, Any]
    """The `JobRequest` as JSON, every default filled in."""
    trace: str | None = None
    """The `traceparent` of the request that made the job."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a job is: the stage, the fraction done of the whole job, the seconds left (None: not known yet)."""

    stage: str
    fraction: float
    eta_seconds: float | None = None

    def __post_init__(self) -> None:
        if not self.stage or len(self.stage) > 64:
            raise ValueError(f"stage must be a name of 1 to 64 characters, got {self.stage!r}")
        if not 0.0 <= self.fraction <= 1.0:
            raise ValueError(f"fraction must lie in 0..1, got {self.fraction}")
        if self.eta_seconds is not None and not 0.0 <= self.eta_seconds < float("inf"):
            raise ValueError(f"eta_seconds must be finite and not negative, got {self.eta_seconds}")


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a stage, or the rest of the job, is expected to take before it begins: seconds on this worker, and the peak
    of memory. That of the job has `float_passes`, too: runs of the float network over all samples."""

    stage: str
    seconds: float
    memory_bytes: int
    float_passes: float | None = None

    def __post_init__(self) -> None:
        if not 0.0 <= self.seconds < float("inf"):
            raise ValueError(f"seconds must be finite and not negative, got {self.seconds}")
        if self.memory_bytes < 0:
            raise ValueError(f"memory_bytes must be at least 0, got {self.memory_bytes}")
        if self.float_passes is not None and not 0.0 <= self.float_passes < float("inf"):
            raise ValueError(f"float_passes must be finite and not negative, got {self.float_passes}")


@dataclass(frozen=True, slots=True)
class Artifact:
    """A stored result that a finishing job points to."""

    blob: BlobRef
    media_type: str

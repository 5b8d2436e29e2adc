"""What a running job reports, as values: to a progress bar, a notebook, or the database behind a worker."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

WHOLE_JOB = "job"
"""In the place of a stage: the estimate of the whole job."""


@dataclass(frozen=True, slots=True)
class StageBegan:
    """A stage has no result yet and begins; it may take `time_limit`."""

    stage: str
    time_limit: timedelta


@dataclass(frozen=True, slots=True)
class StageEnded:
    """The result of a stage is stored; `ran` is false where it was there already."""

    stage: str
    ran: bool


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the job is: the fraction of the whole that is done, and the seconds left, None while not known."""

    stage: str
    fraction: float
    eta_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a stage, or the rest of the job, is expected to take before its expensive part begins.

    Args:
        stage: its name; `job` for all stages that have no result yet.
        seconds: on this machine, with nothing else to do.
        memory_bytes: the peak of the whole process's memory.
        float_passes: the same seconds in runs of the float network over all samples; None of a stage.
    """

    stage: str
    seconds: float
    memory_bytes: int
    float_passes: float | None = None

    @property
    def subject(self) -> str:
        """What it is of, in words."""
        return "the whole job" if self.stage == WHOLE_JOB else f"stage {self.stage}"


@dataclass(frozen=True, slots=True)
class PlanEvaluated:
    """A plan of the search was exported and run: its cost, its predicted damage, and what was measured."""

    measured: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class MethodTimed:
    """A method of sensitivity has run; its seconds on this machine stand in no result."""

    method: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Spread:
    """The running stage has `open` chunks that nobody computes yet, and that other workers may take."""

    stage: str
    open: int


Event = StageBegan | StageEnded | Progress | Estimate | PlanEvaluated | MethodTimed | Spread

Report = Callable[[Event], None]
"""Called from the job's own thread, at least every few seconds; `Progress` comes again without news. What it raises
ends the job."""


def silent(_event: Event) -> None:
    """Report to nobody."""

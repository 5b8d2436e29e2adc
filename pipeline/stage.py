"""What a stage is: what it sees of its job, what its result depends on, and what a finished job gives."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

JSON = Any

# Blobs of another release are not taken for those of this one.
VERSION = version("bitbudget")


class StageContext(Protocol):
    """What a stage sees of the job: its inputs, and where to say how far it is."""

    request: Mapping[str, JSON]
    threads: int
    memory_limit_bytes: int | None

    @property
    def model_path(self) -> Path:
        """The uploaded model."""

    @property
    def dataset_path(self) -> Path | None:
        """The uploaded dataset; None if the job has none."""

    def read(self, stage: str) -> bytes:
        """The blob that an earlier stage wrote."""

    def chunk(self, name: str, compute: Callable[[], bytes]) -> bytes:
        """`compute()`, or what an earlier attempt stored for this chunk of this stage."""

    def cached(self, key: str, compute: Callable[[], bytes]) -> bytes:
        """`compute()`, or what any job stored under `key`, which names all that the result depends on."""

    def progress(self, fraction: float) -> None:
        """Report progress within the stage, 0 to 1; also a checkpoint as `check`."""

    def check(self) -> None:
        """Raise if the job was cancelled or the lease was lost; call it at least every few seconds."""

    def event(self, kind: str, data: Mapping[str, JSON]) -> None:
        """Append to the job's event stream."""

    def estimate(self, seconds: float, memory_bytes: int) -> None:
        """Show in the job what this stage is expected to take; called before the expensive part begins."""

    def deadline_passed(self) -> bool:
        """Whether the request's `search.deadline_seconds` is used up, counted from the first start of the job."""

    def time_used(self) -> float:
        """The share of the request's `search.deadline_seconds` that is used up, 0 without one, at most 1."""


def always(_request: Mapping[str, JSON]) -> bool:
    """The stage runs for every request."""
    return True


@dataclass(frozen=True)
class Stage:
    """One step of the job.

    `reads` names earlier stages or the uploads `model` and `dataset`; `settings` picks the part of the request that
    the result depends on; `weight` is the stage's usual share of the whole time, for progress and ETA; `version` is
    raised when the code's result changes within a release, so that no old blob is taken for a new one. `needed` says
    for which requests the stage runs: for the others it has no key and no result, and its readers do without.
    """

    name: str
    reads: tuple[str, ...]
    settings: Callable[[Mapping[str, JSON]], JSON]
    run: Callable[[StageContext], bytes]
    weight: float
    time_limit: timedelta
    version: int = 1
    needed: Callable[[Mapping[str, JSON]], bool] = always

    def key(self, request: Mapping[str, JSON], keys: Mapping[str, str]) -> str:
        """Hex SHA-256 over everything the result depends on; `keys` has the key or digest of each name in `reads`, but
        for stages that the request does not need."""
        read = [keys.get(name) for name in self.reads]
        parts = [VERSION, self.name, self.version, read, self.settings(request)]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def needed_stages(stages: Iterable[Stage], request: Mapping[str, JSON]) -> tuple[Stage, ...]:
    """Those of the table that a job with this request runs, in order."""
    return tuple(stage for stage in stages if stage.needed(request))


OUTCOMES = frozenset({"met", "not_met", "deadline"})


@dataclass(frozen=True)
class Delivery:
    """What a finished job gives: how it answered its budget, the summary for its page, its files by kind.

    Made by `deliver(context)` from the results of the stages; must be the same for the same results, because a job
    that loses its worker while finishing is delivered again.
    """

    outcome: str
    summary: Mapping[str, JSON]
    artifacts: Mapping[str, bytes]

    def __post_init__(self) -> None:
        if self.outcome not in OUTCOMES:
            raise ValueError(f"outcome must be one of {', '.join(sorted(OUTCOMES))}, got {self.outcome!r}")

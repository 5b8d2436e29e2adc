"""What a stage of a job is, what its result depends on, and what a finished job gives."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from datetime import timedelta
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from pydantic import BaseModel

from pipeline.process import release
from pipeline.time_limits import TimeLimit

if TYPE_CHECKING:
    from app.schemas.certificate_request import CertificateRequest
    from app.schemas.job_request import JobRequest

# Blobs of another release are not taken for those of this one.
VERSION = version("bitbudget")

UPLOADS = ("model", "dataset", "metric", "quantized")
"""What stages read that no stage wrote: a network, its samples, a metric of one's own, a quantized file to certify."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What one job may use here. No result depends on it, but for what stands in the slices."""

    threads: int = 1
    memory_limit_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Upload:
    """A file with its digest, which is its identity."""

    path: Path
    sha256: str

    @classmethod
    def of(cls, path: Path) -> Upload:
        """The file as it lies there.

        Raises:
            OSError: it cannot be read.
        """
        with path.open("rb") as file:
            return cls(path, hashlib.file_digest(file, "sha256").hexdigest())


@dataclass(frozen=True)
class Stage:
    """One step of the job.

    `reads` names earlier stages or uploads; `run` takes the `Context` and the stage's slice of the configuration, and
    gives the blob, as bytes or where that is large as a file, which is closed when it is stored;
    `weight` is the stage's usual share of the whole time, for progress and ETA; `time_limit` may grow with the bytes of
    the uploads; `version` is raised when the code's result changes within a release, so that no old blob is taken for a
    new one. A stage that `spreads` has chunks (`Context.spread`) that several processes can share; its other parts each
    of them runs for itself.
    """

    name: str
    reads: tuple[str, ...]
    run: Callable[[Any, Any], bytes | IO[bytes]]
    weight: float
    time_limit: timedelta | TimeLimit
    version: int = 1
    spreads: bool = False

    def limit(self, size_bytes: int) -> timedelta:
        """How long the stage may take where the uploads of the job have so many bytes together."""
        return self.time_limit if isinstance(self.time_limit, timedelta) else self.time_limit.of(size_bytes)

    def key(self, config: object, keys: Mapping[str, str]) -> str:
        """Hex SHA-256 over everything that the result depends on.

        Args:
            config: the stage's slice.
            keys: the key or digest of each name in `reads`, but for stages that the request does not need.
        """
        read = [keys.get(name) for name in self.reads]
        return digest_of([VERSION, self.name, self.version, read, config])


def digest_of(value: object) -> str:
    """Hex SHA-256 of a value made of dataclasses, models, enumerations, mappings, sequences and plain JSON.

    Values that are equal have equal digests. A field of a dataclass that does not count for its equality does not count
    here either.
    """
    return hashlib.sha256(json.dumps(_plain(value), sort_keys=True, allow_nan=False).encode()).hexdigest()


def _plain(value: object) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if is_dataclass(value):
        members = {field.name: _plain(getattr(value, field.name)) for field in fields(value) if field.compare}
        return {"type": type(value).__name__, **members}
    if isinstance(value, Mapping):
        return {str(key): _plain(member) for key, member in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(member) for member in value]
    return value


@dataclass(frozen=True, slots=True)
class Table:
    """The stages of a job in order, what gives each its slice, and what makes the result from what they wrote.

    `forecast` takes the context and all slices, before the stage `forecast_before` begins, and reports what the rest of
    the job is expected to take; None where nothing is estimated.
    """

    stages: Sequence[Stage]
    configure: Callable[[JobRequest | CertificateRequest, Machine, str], Any]
    report: Callable[[Any, Any], JobResult]
    forecast: Callable[[Any, Any], None] | None = None
    forecast_before: str = ""

    def __post_init__(self) -> None:
        names = [stage.name for stage in self.stages]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"the stages of a job have different names, got {names}")
        known = set(UPLOADS)
        for stage in self.stages:
            if missing := set(stage.reads) - known:
                raise ValueError(f"stage {stage.name} reads {sorted(missing)}, which do not stand before it")
            known.add(stage.name)

    def run(self, stage: Stage, context: Any, config: object) -> bool:
        """Run a stage with its slice, or find its result; True if it ran."""
        if self.forecast is not None and stage.name == self.forecast_before and not context.helping:
            self.forecast(context, config)
            release()  # a session of the float network
        return bool(context.run(stage, getattr(config, stage.name)))

    def needed(self, config: object) -> list[Stage]:
        """The stages that have a slice, in order; a job of another kind has none for some."""
        return [stage for stage in self.stages if getattr(config, stage.name, None) is not None]


OUTCOMES = frozenset({"met", "not_met", "deadline"})


@dataclass(frozen=True)
class JobResult:
    """What a finished job gives: how it answered its budget, the summary for its page, its files by kind.

    The same for the same results of the stages: a job that loses its worker while finishing is finished again.
    """

    outcome: str
    summary: Mapping[str, Any]
    artifacts: Mapping[str, bytes]

    def __post_init__(self) -> None:
        if self.outcome not in OUTCOMES:
            raise ValueError(f"outcome must be one of {', '.join(sorted(OUTCOMES))}, got {self.outcome!r}")

    @cached_property
    def plan(self) -> dict[str, Any] | None:
        """A format for every weight and activation, with what is known of each; `GET /v1/schemas/plan-1.json`. None
        where a file of another tool was certified."""
        return self._document("plan")

    @property
    def certificate(self) -> dict[str, Any]:
        """What was measured with the quantized file on samples that chose nothing."""
        document = self._document("plan") or self._document("certificate") or {}
        return dict(document["certificate"])

    @cached_property
    def report(self) -> dict[str, Any] | None:
        """What is said of a quantized file that was certified: its certificate, every other metric that fits, its
        findings and how it stores each weight. None where the file was made here."""
        return self._document("certificate")

    @cached_property
    def frontier(self) -> dict[str, Any] | None:
        """Plans that no other beats in cost and predicted damage; None where a plan was applied."""
        return self._document("frontier")

    @cached_property
    def sensitivity(self) -> dict[str, Any] | None:
        """The scores of every candidate by method; None where a plan was applied."""
        return self._document("sensitivity")

    @property
    def model(self) -> bytes:
        """The quantized network, an ONNX file.

        Raises:
            KeyError: the job made none, but certified one.
        """
        return self.artifacts["model"]

    def _document(self, kind: str) -> dict[str, Any] | None:
        return dict(json.loads(self.artifacts[kind])) if kind in self.artifacts else None

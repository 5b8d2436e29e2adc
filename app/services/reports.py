"""What is drawn of a finished job: its charts, its report, its model card."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from app.renderer import Drawing, Renderer
from app.services import jobs
from app.services.results import find_result
from app.store.blobs import BlobRef, read_bytes
from app.store.engine import Sessions
from app.store.jobs import events_of_kinds
from app.store.tables import JobEventRow
from report.contents import CHARTS


@dataclass(frozen=True, slots=True)
class Wanted:
    """A file of a report before it is drawn: what it is made of, and the digest of all that."""

    file: str
    theme: str
    blobs: Mapping[str, BlobRef]
    stage_seconds: Mapping[str, float]
    job: Mapping[str, Any]

    @property
    def digest(self) -> str:
        """The same for the same file: documents do not change once a job has ended, but programs that draw do."""
        read = {kind: blob.sha256 for kind, blob in self.blobs.items()}
        made_of = [version("bitbudget"), self.file, self.theme, read, dict(self.stage_seconds), dict(self.job)]
        return hashlib.sha256(json.dumps(made_of).encode()).hexdigest()

    def drawn(self, sessions: Sessions, renderer: Renderer) -> bytes:
        """The file.

        Raises:
            AppError: as `Renderer`.
        """
        documents = {kind: read_bytes(sessions, blob) for kind, blob in self.blobs.items()}
        return renderer(Drawing(self.file, documents, self.theme, self.stage_seconds, self.job))


def chart(sessions: Sessions, job_id: str, name: str, kind: str, theme: str) -> Wanted:
    """The chart `name` of `report.contents.CHARTS` as `svg` or `png`.

    Raises:
        AppError: as `find_result`, for the documents that the chart shows.
    """
    jobs.get(sessions, job_id)
    blobs = {read: find_result(sessions, job_id, read).blob for read in CHARTS[name].reads}
    seconds = stage_seconds(sessions, job_id) if CHARTS[name].shows_stages else {}
    return Wanted(f"charts/{name}.{kind}", theme, blobs, seconds, {})


def stage_seconds(sessions: Sessions, job_id: str) -> dict[str, float]:
    """What the stages of a job took, in their order, all attempts together; the one that runs does not count yet.

    A stage whose result was there already took next to nothing.
    """
    with sessions.read() as session:
        return seconds_of(events_of_kinds(session, job_id, ("stage", "state")))


def seconds_of(events: Sequence[JobEventRow]) -> dict[str, float]:
    """The seconds between the events that begin stages and those that end them: the next stage, another state."""
    seconds: dict[str, float] = {}
    began: JobEventRow | None = None
    for event in events:
        if began is not None:
            stage = str(began.data["stage"])
            seconds[stage] = seconds.get(stage, 0.0) + (event.created_at - began.created_at).total_seconds()
        began = event if event.kind == "stage" else None
    return {stage: round(taken, 3) for stage, taken in seconds.items()}

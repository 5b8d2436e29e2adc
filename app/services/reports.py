"""What is drawn of a finished job: its charts, its report, its model card."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import Any

from app.errors import AppError
from app.renderer import Drawing, Renderer, Source
from app.schemas.parsing import is_certificate
from app.services import jobs
from app.services.results import find_result
from app.store.blobs import BlobRef, read_blob
from app.store.engine import Sessions
from app.store.jobs import events_of_kinds, find_artifact
from app.store.tables import JobEventRow, JobRow
from app.store.uploads import find_upload
from report.contents import CHARTS, DOCUMENTS


@dataclass(frozen=True, slots=True)
class Wanted:
    """A file of a report before it is drawn: what it is made of, and a tag for all that."""

    file: str
    theme: str
    blobs: Mapping[str, BlobRef]
    stage_seconds: Mapping[str, float]
    job: Mapping[str, Any]

    @property
    def tag(self) -> str:
        """The same for the same file: documents do not change once a job has ended, but programs that draw do. It is no
        digest of the contents, and does not look like one."""
        read = {kind: blob.sha256 for kind, blob in self.blobs.items()}
        made_of = [version("bitbudget"), self.file, self.theme, read, dict(self.stage_seconds), dict(self.job)]
        return f"drawn-{hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:32]}"

    def drawn(self, sessions: Sessions, renderer: Renderer) -> bytes:
        """The file.

        Raises:
            AppError: as `Renderer`.
        """
        documents = {
            kind: Source(blob.size_bytes, partial(read_blob, sessions, blob)) for kind, blob in self.blobs.items()
        }
        drawing = Drawing(self.file, documents, self.theme, self.stage_seconds, self.job, self.tag)
        return renderer(drawing, sessions.project_id)


def chart(sessions: Sessions, job_id: str, name: str, kind: str, theme: str) -> Wanted:
    """The chart `name` of `report.contents.CHARTS` as `svg` or `png`.

    Raises:
        AppError: as `find_result`, for the documents that the chart shows.
    """
    jobs.get(sessions, job_id)
    blobs = {read: find_result(sessions, job_id, read).blob for read in CHARTS[name].reads}
    seconds = stage_seconds(sessions, job_id) if CHARTS[name].shows_stages else {}
    return Wanted(f"charts/{name}.{kind}", theme, blobs, seconds, {})


def report(sessions: Sessions, job_id: str, file: str, *, with_samples: bool = True) -> Wanted:
    """The page or the model card of a job that has succeeded.

    Args:
        file: `PAGE` or `MODEL_CARD` of `report.contents`.
        with_samples: whether it shows samples of the data.

    Raises:
        AppError: as `find_result`, for the plan, or for what a job has that certified a file.
    """
    job = jobs.get(sessions, job_id)
    blobs = {}
    for kind in _read_of(job):
        try:
            blobs[kind] = find_result(sessions, job_id, kind).blob
        except AppError as error:
            if error.code != "artifact_missing" or kind in ("plan", "certificate"):
                raise
    if not with_samples:
        blobs.pop("samples", None)
    return Wanted(file, "light", blobs, stage_seconds(sessions, job_id), _about(sessions, job))


def _read_of(job: JobRow) -> Sequence[str]:
    """Kinds of documents that the report of this job shows, if it has them."""
    return ("certificate",) if is_certificate(job.request) else [kind for kind in DOCUMENTS if kind != "certificate"]


def _about(sessions: Sessions, job: JobRow) -> dict[str, str]:
    """What the report says of the job itself."""
    with sessions.read() as session:
        model = find_upload(session, "model", job.model_id)
        data = None if job.dataset_id is None else find_upload(session, "dataset", job.dataset_id)
        file = find_artifact(session, job.id, "model")
    known = {
        "id": job.id,
        "name": job.name,
        "model_name": None if model is None else model.name,
        "dataset_name": None if data is None else data.name,
        "finished_at": None if job.finished_at is None else job.finished_at.isoformat(timespec="seconds"),
        "file_sha256": None if file is None else file[0].sha256,
    }
    return {name: value for name, value in known.items() if value is not None}


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

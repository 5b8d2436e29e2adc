"""Lists as people read them: rows together with what stands elsewhere, by a fixed number of statements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.services import jobs, uploads
from app.store.engine import Sessions
from app.store.jobs import JobFilter, evaluated_plans, find_jobs
from app.store.tables import JobRow, UploadRow
from app.store.uploads import UploadFilter, job_counts, names_of, total_bytes


@dataclass(frozen=True, slots=True)
class ListedJob:
    """A job, what its model is called, and the plans that it evaluated, in their order."""

    row: JobRow
    model_name: str | None
    """None: the model was removed."""
    evaluated: Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class ListedUpload:
    """A model or dataset, and how many jobs read it."""

    row: UploadRow
    jobs: int


@dataclass(frozen=True, slots=True)
class Stored:
    """How many models or datasets a project has, and their bytes."""

    count: int
    size_bytes: int


def list_jobs(
    sessions: Sessions, wanted: JobFilter, limit: int, cursor: str | None
) -> tuple[list[ListedJob], str | None]:
    """Jobs, newest first, and the cursor of the next page; raises as `jobs.recent`."""
    rows, following = jobs.recent(sessions, wanted, limit, cursor)
    return _completed(sessions, rows), following


def jobs_by_id(sessions: Sessions, job_ids: Sequence[str]) -> list[ListedJob]:
    """These jobs, in this order; those that are gone are left out."""
    with sessions.read() as session:
        rows = find_jobs(session, job_ids)
    return _completed(sessions, rows)


def list_uploads(
    sessions: Sessions, kind: str, wanted: UploadFilter, limit: int, cursor: str | None
) -> tuple[list[ListedUpload], str | None]:
    """Models or datasets (`kind`), newest first, and the cursor of the next page; raises as `uploads.recent`."""
    rows, following = uploads.recent(sessions, kind, wanted, limit, cursor)
    with sessions.read() as session:
        counts = job_counts(session, kind, [row.id for row in rows])
    return [ListedUpload(row, counts.get(row.id, 0)) for row in rows], following


def find_upload(sessions: Sessions, kind: str, upload_id: str) -> ListedUpload:
    """One model or dataset (`kind`); raises as `uploads.get`."""
    row = uploads.get(sessions, kind, upload_id)
    with sessions.read() as session:
        return ListedUpload(row, job_counts(session, kind, [row.id]).get(row.id, 0))


def stored(sessions: Sessions, kind: str) -> Stored:
    """What the project stores of this kind."""
    with sessions.read() as session:
        return Stored(*total_bytes(session, kind))


def _completed(sessions: Sessions, rows: Sequence[JobRow]) -> list[ListedJob]:
    with sessions.read() as session:
        names = names_of(session, "model", {row.model_id for row in rows})
        plans = evaluated_plans(session, [row.id for row in rows])
    return [ListedJob(row, names.get(row.model_id), plans.get(row.id, ())) for row in rows]

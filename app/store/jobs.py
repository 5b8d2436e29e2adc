"""SQL on jobs, their events and artifacts."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, and_, case, func, or_, select, tuple_, update
from sqlalchemy.orm import Session

from app.store.blobs import BlobRef, find_blob, keep_blob
from app.store.engine import project_of
from app.store.statements import has_member
from app.store.tables import ArtifactRow, JobEventRow, JobRow, JobUploadRow
from app.store.webhooks import add_deliveries


def find_job(session: Session, job_id: str) -> JobRow | None:
    """The job of this project with the id `job_id`."""
    return session.scalar(select(JobRow).where(JobRow.id == job_id, JobRow.project_id == project_of(session)))


def find_jobs(session: Session, job_ids: Sequence[str]) -> list[JobRow]:
    """These jobs of this project, in this order; those that are gone are left out."""
    query = select(JobRow).where(JobRow.id.in_(job_ids), JobRow.project_id == project_of(session))
    found = {row.id: row for row in session.scalars(query)}
    return [found[job_id] for job_id in job_ids if job_id in found]


def lock_job(session: Session, job_id: str) -> JobRow | None:
    """The job `job_id` of this project; nobody else changes it or refers to it until this transaction has ended."""
    query = select(JobRow).where(JobRow.id == job_id, JobRow.project_id == project_of(session)).with_for_update()
    return session.scalar(query.execution_options(populate_existing=True))


def keep_job(session: Session, job_id: str) -> bool:
    """Keep a job from being removed until this transaction, which refers to it, has ended; False: there is none."""
    query = select(JobRow.id).where(JobRow.id == job_id, JobRow.project_id == project_of(session))
    return session.scalar(query.with_for_update(read=True, key_share=True)) is not None


@dataclass(frozen=True, slots=True)
class JobFilter:
    """Which jobs to list; None: whatever it is. `name` and `tag` are compared as they are, letter by letter."""

    state: str | None = None
    outcome: str | None = None
    name: str | None = None
    tag: str | None = None
    model_id: str | None = None
    created_after: datetime | None = None
    upload_id: str | None = None
    """A model, dataset or metric graph that the job reads, as what does not matter."""


def list_jobs(session: Session, wanted: JobFilter, limit: int, before: tuple[datetime, str] | None) -> Sequence[JobRow]:
    """Jobs, newest first, from the first one after `before` (created_at, id) on."""
    query = select(JobRow).where(JobRow.project_id == project_of(session))
    for column in (JobRow.state, JobRow.outcome, JobRow.name, JobRow.model_id):
        value = getattr(wanted, column.key)
        if value is not None:
            query = query.where(column == value)
    if wanted.tag is not None:
        query = query.where(has_member(session, JobRow.tags, wanted.tag))
    if wanted.upload_id is not None:
        query = query.where(
            JobRow.id.in_(select(JobUploadRow.job_id).where(JobUploadRow.upload_id == wanted.upload_id))
        )
    if wanted.created_after is not None:
        query = query.where(JobRow.created_at > wanted.created_after)
    if before is not None:
        query = query.where(tuple_(JobRow.created_at, JobRow.id) < tuple_(*before))
    return session.scalars(query.order_by(JobRow.created_at.desc(), JobRow.id.desc()).limit(limit)).all()


def held_by(job_id: str, owner: str, attempt: int) -> ColumnElement[bool]:
    """The fence: true for the row of a job that this worker, in this attempt, still holds."""
    return and_(JobRow.id == job_id, JobRow.state == "running", JobRow.owner == owner, JobRow.attempt == attempt)


def change(session: Session, condition: ColumnElement[bool], values: Mapping[str, Any]) -> JobRow | None:
    """Change the one job for which `condition` holds; None if it holds for none.

    A single UPDATE, so that of two who want the same change one gets None.
    """
    return session.scalars(
        update(JobRow)
        .where(condition)
        .values(**values)
        .returning(JobRow)
        .execution_options(synchronize_session=False, populate_existing=True)
    ).one_or_none()


def add_event(session: Session, job: JobRow, kind: str, data: Mapping[str, Any], now: datetime) -> int:
    """Number and store an event of a job that this transaction has changed, and therefore holds the lock of.

    With a new state the project's webhooks get what they are to be told, in the same transaction.
    """
    seq = session.execute(
        update(JobRow).where(JobRow.id == job.id).values(last_event=JobRow.last_event + 1).returning(JobRow.last_event)
    ).scalar_one()
    session.add(JobEventRow(job_id=job.id, seq=seq, kind=kind, data=dict(data), created_at=now))
    if kind == "state":
        add_deliveries(session, job, seq, now)
    return seq


def events_after(session: Session, job_id: str, seq: int) -> Sequence[JobEventRow]:
    return session.scalars(
        select(JobEventRow).where(JobEventRow.job_id == job_id, JobEventRow.seq > seq).order_by(JobEventRow.seq)
    ).all()


def evaluated_plans(session: Session, job_ids: Collection[str]) -> dict[str, list[dict[str, Any]]]:
    """What the events `evaluated` of these jobs say, in their order, by job."""
    events = (
        select(JobEventRow.job_id, JobEventRow.data)
        .where(JobEventRow.job_id.in_(job_ids), JobEventRow.kind == "evaluated")
        .order_by(JobEventRow.job_id, JobEventRow.seq)
    )
    plans: dict[str, list[dict[str, Any]]] = {}
    for job_id, data in session.execute(events):
        plans.setdefault(job_id, []).append(data)
    return plans


def events_of_kinds(session: Session, job_id: str, kinds: Sequence[str]) -> Sequence[JobEventRow]:
    """The events of a job that are of these kinds, in their order."""
    of_job = select(JobEventRow).where(JobEventRow.job_id == job_id, JobEventRow.kind.in_(kinds))
    return session.scalars(of_job.order_by(JobEventRow.seq)).all()


def running_jobs(session: Session, condition: ColumnElement[bool]) -> Sequence[str]:
    return session.scalars(select(JobRow.id).where(JobRow.state == "running", condition)).all()


def owner_begins(prefix: str) -> ColumnElement[bool]:
    """True for jobs whose worker's name begins so; not LIKE, which on SQLite takes `a` for `A`."""
    return func.substr(JobRow.owner, 1, len(prefix)) == prefix


def queued_or_cancelled() -> ColumnElement[str]:
    """State of a job that loses its worker: queued again, unless its cancellation was requested."""
    return case((JobRow.cancel_requested, "cancelled"), else_="queued")


def active(job_id: str) -> ColumnElement[bool]:
    return and_(JobRow.id == job_id, or_(JobRow.state == "queued", JobRow.state == "running"))


def add_artifact(session: Session, job_id: str, kind: str, blob: BlobRef, media_type: str) -> None:
    keep_blob(session, blob)
    session.add(ArtifactRow(job_id=job_id, kind=kind, blob_id=blob.id, media_type=media_type))


def find_artifact(session: Session, job_id: str, kind: str) -> tuple[BlobRef, str] | None:
    """The blob and the media type of a result; None when the job has no such result."""
    row = session.get(ArtifactRow, (job_id, kind))
    return None if row is None else (find_blob(session, row.blob_id), row.media_type)


def oldest_queued(session: Session) -> datetime | None:
    """When the oldest job that still waits was created."""
    return session.scalar(select(func.min(JobRow.created_at)).where(JobRow.state == "queued"))

"""SQL on what nobody has used for long, of one project."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import ColumnElement, delete, exists, func, select
from sqlalchemy.orm import Session

from app.store.engine import project_of
from app.store.removal import touch
from app.store.tables import JobRow, JobUploadRow, ProjectRow, StageResultRow, UploadRow

_FINAL = ("succeeded", "failed", "cancelled")


def projects_that_forget(session: Session, default_days: int | None) -> Sequence[tuple[str, int]]:
    """Projects that keep things for a number of days only, and that number."""
    days = func.coalesce(ProjectRow.keep_days, default_days)
    found = session.execute(select(ProjectRow.id, days).where(days.is_not(None)).order_by(ProjectRow.id))
    return [(row[0], row[1]) for row in found]


def expired_jobs(session: Session, before: datetime, limit: int) -> Sequence[str]:
    """Jobs that ended before that time and are not pinned, oldest first."""
    query = select(JobRow.id).where(
        JobRow.project_id == project_of(session),
        JobRow.created_at < before,  # it has an index, and no job ends before it was made
        JobRow.finished_at < before,
        JobRow.state.in_(_FINAL),
        ~JobRow.pinned,
    )
    return session.scalars(query.order_by(JobRow.created_at, JobRow.id).limit(limit)).all()


def expired_uploads(session: Session, before: datetime, limit: int) -> Sequence[tuple[str, str]]:
    """Kind and id of uploads that were not used since, that no job names, and that are not pinned."""
    query = select(UploadRow.kind, UploadRow.id).where(
        UploadRow.project_id == project_of(session), *_upload_expired(session, before)
    )
    return [(row[0], row[1]) for row in session.execute(query.order_by(UploadRow.created_at).limit(limit))]


def is_expired(session: Session, upload: UploadRow, before: datetime) -> bool:
    """Whether it is still so, of an upload that is locked in this transaction."""
    which = UploadRow.project_id == upload.project_id, UploadRow.kind == upload.kind, UploadRow.id == upload.id
    return session.scalar(select(UploadRow.id).where(*which, *_upload_expired(session, before))) is not None


def remove_expired_results(session: Session, before: datetime, limit: int, now: datetime) -> int:
    """Remove results of stages that were not used since; returns how many."""
    ours = StageResultRow.project_id == project_of(session)
    unused = func.coalesce(StageResultRow.used_at, StageResultRow.created_at) < before
    keys = session.scalars(select(StageResultRow.key).where(ours, unused).limit(limit)).all()
    if not keys:
        return 0
    these = StageResultRow.key.in_(keys)
    touch(session, select(StageResultRow.blob_id).where(ours, these, unused), now)
    return len(session.scalars(delete(StageResultRow).where(ours, these, unused).returning(StageResultRow.key)).all())


def oldest_start(session: Session) -> datetime | None:
    """When the job began that has been under way for longest; None: none is."""
    under_way = JobRow.state.in_(("queued", "running")), JobRow.started_at.is_not(None)
    return session.scalar(
        select(func.min(JobRow.started_at)).where(JobRow.project_id == project_of(session), *under_way)
    )


def _upload_expired(session: Session, before: datetime) -> tuple[ColumnElement[bool], ...]:
    named = (
        exists()
        .where(JobUploadRow.kind == UploadRow.kind, JobUploadRow.upload_id == UploadRow.id)
        .where(JobUploadRow.job_id == JobRow.id, JobRow.project_id == project_of(session))
    )
    unused = func.coalesce(UploadRow.used_at, UploadRow.created_at) < before
    return unused, ~UploadRow.pinned, ~named

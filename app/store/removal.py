"""SQL that removes jobs and uploads with all that is their own.

Contents go later, by `app.store.blobs.remove_abandoned`: others may refer to the same ones. Those that lose a reference
here count as touched, so that whoever reads them now can end.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import ColumnElement, Select, delete, select, update
from sqlalchemy.orm import Session

from app.store.engine import project_of
from app.store.tables import (
    ArtifactRow,
    BlobRow,
    IdempotencyRow,
    JobEventRow,
    JobLogRow,
    JobRow,
    JobUploadRow,
    UploadRow,
)


def remove_job(session: Session, job: JobRow, now: datetime) -> None:
    """Remove a job that has ended, with its results, events, log and idempotency keys.

    Replans of it stay, without a parent.

    Args:
        job: locked in this transaction.
    """
    touch(session, select(ArtifactRow.blob_id).where(ArtifactRow.job_id == job.id), now)
    session.execute(update(JobRow).where(JobRow.parent_id == job.id).values(parent_id=None))
    for table in (ArtifactRow, JobEventRow, JobLogRow, JobUploadRow, IdempotencyRow):
        session.execute(delete(table).where(table.job_id == job.id))
    session.execute(delete(JobRow).where(JobRow.id == job.id))


def remove_upload(session: Session, upload: UploadRow, now: datetime) -> None:
    """Remove an upload that no job needs; `upload`: locked in this transaction."""
    touch(session, select(UploadRow.blob_id).where(*_is(upload)), now)
    session.execute(delete(UploadRow).where(*_is(upload)))


def jobs_that_need(session: Session, kind: str, upload_id: str, limit: int) -> Sequence[str]:
    """Jobs of this project that have not ended and read this upload, oldest first."""
    return session.scalars(
        select(JobRow.id)
        .join(JobUploadRow, JobUploadRow.job_id == JobRow.id)
        .where(
            JobUploadRow.kind == kind,
            JobUploadRow.upload_id == upload_id,
            JobRow.project_id == project_of(session),
            JobRow.state.in_(("queued", "running")),
        )
        .order_by(JobRow.created_at, JobRow.id)
        .limit(limit)
    ).all()


def touch(session: Session, blob_ids: Select[int], now: datetime) -> None:
    """Let these contents stay as long as if they had been stored now.

    Those that somebody else has locked are being touched already; waiting for them, several at once, could be waiting
    for each other.
    """
    free = select(BlobRow.id).where(BlobRow.id.in_(blob_ids)).with_for_update(skip_locked=True)
    known = session.scalars(free).all()
    session.execute(update(BlobRow).where(BlobRow.id.in_(known)).values(touched_at=now))


def _is(upload: UploadRow) -> tuple[ColumnElement[bool], ...]:
    return UploadRow.project_id == upload.project_id, UploadRow.kind == upload.kind, UploadRow.id == upload.id

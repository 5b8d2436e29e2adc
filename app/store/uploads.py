"""SQL on uploads. Within a project the digest is the identity: the same contents are the same upload."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, func, or_, select, tuple_, update
from sqlalchemy.orm import Session

from app.store.blobs import BlobRef, find_blob, keep_blob
from app.store.engine import project_of
from app.store.stages import USE_NOTED_EVERY
from app.store.statements import has_member, insert
from app.store.tables import JobRow, JobUploadRow, UploadRow


def put_upload(session: Session, kind: str, blob: BlobRef, name: str | None, now: datetime) -> tuple[UploadRow, bool]:
    """Register an upload; its row, and whether it is new. A name that is given replaces the one it had."""
    keep_blob(session, blob)
    project = project_of(session)
    values = {
        "project_id": project,
        "kind": kind,
        "id": blob.sha256,
        "name": name if name is not None else name_of_nameless(blob.sha256),
        "size_bytes": blob.size_bytes,
        "blob_id": blob.id,
        "created_at": now,
    }
    statement = insert(session, UploadRow).values(**values).on_conflict_do_nothing().returning(UploadRow.id)
    while True:
        created = session.scalar(statement) is not None
        row = _kept(session, kind, blob.sha256)
        if row is not None:  # else it was removed since the insertion met it
            break
    if not created:
        row.used_at = now  # whoever sends it again is about to use it
        row.name = row.name if name is None else name
    return row, created


def name_of_nameless(upload_id: str) -> str:
    """What an upload is called that nobody gave a name."""
    return upload_id[:12]


def find_upload(session: Session, kind: str, upload_id: str) -> UploadRow | None:
    """The model or dataset (`kind`) with the digest `upload_id`."""
    return session.get(UploadRow, (project_of(session), kind, upload_id))


@dataclass(frozen=True, slots=True)
class UploadFilter:
    """Which uploads to list; None: whatever it is. Both are compared as they are, letter by letter."""

    name: str | None = None
    tag: str | None = None


def list_uploads(
    session: Session, kind: str, wanted: UploadFilter, limit: int, before: tuple[datetime, str] | None
) -> Sequence[UploadRow]:
    """Models or datasets (`kind`), newest first, from the first one after `before` (created_at, id) on."""
    query = select(UploadRow).where(UploadRow.project_id == project_of(session), UploadRow.kind == kind)
    if wanted.name is not None:
        query = query.where(UploadRow.name == wanted.name)
    if wanted.tag is not None:
        query = query.where(has_member(session, UploadRow.tags, wanted.tag))
    if before is not None:
        query = query.where(tuple_(UploadRow.created_at, UploadRow.id) < tuple_(*before))
    return session.scalars(query.order_by(UploadRow.created_at.desc(), UploadRow.id.desc()).limit(limit)).all()


def names_of(session: Session, kind: str, upload_ids: Collection[str]) -> dict[str, str]:
    """The names of these models or datasets (`kind`), by id; those that are gone are left out."""
    ours = UploadRow.project_id == project_of(session), UploadRow.kind == kind, UploadRow.id.in_(upload_ids)
    return {row.id: row.name for row in session.execute(select(UploadRow.id, UploadRow.name).where(*ours))}


def job_counts(session: Session, kind: str, upload_ids: Collection[str]) -> dict[str, int]:
    """How many jobs read these models or datasets (`kind`), by id; those that none reads are left out."""
    read = (
        select(JobUploadRow.upload_id, func.count())
        .join(JobRow, JobRow.id == JobUploadRow.job_id)
        .where(
            JobRow.project_id == project_of(session),
            JobUploadRow.kind == kind,
            JobUploadRow.upload_id.in_(upload_ids),
        )
        .group_by(JobUploadRow.upload_id)
    )
    return {row[0]: row[1] for row in session.execute(read)}


def total_bytes(session: Session, kind: str) -> tuple[int, int]:
    """How many models or datasets (`kind`) the project has, and their bytes together."""
    ours = UploadRow.project_id == project_of(session), UploadRow.kind == kind
    query = select(func.count(), func.coalesce(func.sum(UploadRow.size_bytes), 0)).where(*ours)
    count, size_bytes = session.execute(query).one()
    return count, int(size_bytes)


def lock_upload(session: Session, kind: str, upload_id: str) -> UploadRow | None:
    """The upload as `find_upload`; nobody else changes it or uses it until this transaction has ended."""
    query = select(UploadRow).where(*_is(session, kind, upload_id)).with_for_update()
    return session.scalar(query.execution_options(populate_existing=True))


def upload_blob(session: Session, kind: str, upload_id: str) -> BlobRef | None:
    """The contents of an upload; None if there is no such upload."""
    row = find_upload(session, kind, upload_id)
    return None if row is None else find_blob(session, row.blob_id)


def use_upload(session: Session, kind: str, upload_id: str, now: datetime) -> bool:
    """Keep an upload from being removed until this transaction has ended, and note its use; False: there is none."""
    if _kept(session, kind, upload_id) is None:
        return False
    long_ago = or_(UploadRow.used_at.is_(None), UploadRow.used_at < now - USE_NOTED_EVERY)
    # Who cannot have the row at once leaves it to whoever has it: jobs about one model do not wait for each other.
    free = select(UploadRow.id).where(*_is(session, kind, upload_id), long_ago)
    if session.scalar(free.with_for_update(key_share=True, skip_locked=True)) is not None:
        session.execute(update(UploadRow).where(*_is(session, kind, upload_id)).values(used_at=now))
    return True


def _kept(session: Session, kind: str, upload_id: str) -> UploadRow | None:
    # The weakest lock that a removal waits for; SQLite needs none, its writers come one after the other.
    query = select(UploadRow).where(*_is(session, kind, upload_id)).with_for_update(read=True, key_share=True)
    return session.scalar(query.execution_options(populate_existing=True))


def _is(session: Session, kind: str, upload_id: str) -> tuple[ColumnElement[bool], ...]:
    return UploadRow.project_id == project_of(session), UploadRow.kind == kind, UploadRow.id == upload_id

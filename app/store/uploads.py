"""SQL on uploads. Within a project the digest is the identity: the same contents are the same upload."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import update
from sqlalchemy.orm import Session

from app.store.blobs import BlobRef, find_blob, keep_blob
from app.store.engine import project_of
from app.store.statements import insert
from app.store.tables import UploadRow


def put_upload(session: Session, kind: str, blob: BlobRef, name: str | None, now: datetime) -> tuple[UploadRow, bool]:
    """Register an upload; its row, and whether it is new. A name that is given replaces the one it had."""
    keep_blob(session, blob)
    project = project_of(session)
    values = {
        "project_id": project,
        "kind": kind,
        "id": blob.sha256,
        "name": name if name is not None else blob.sha256[:12],
        "size_bytes": blob.size_bytes,
        "blob_id": blob.id,
        "created_at": now,
    }
    created = session.scalar(
        insert(session, UploadRow).values(**values).on_conflict_do_nothing().returning(UploadRow.id)
    )
    if created is None and name is not None:
        row = UploadRow.project_id == project, UploadRow.kind == kind, UploadRow.id == blob.sha256
        session.execute(update(UploadRow).where(*row).values(name=name))
    return session.get_one(UploadRow, (project, kind, blob.sha256)), created is not None


def find_upload(session: Session, kind: str, upload_id: str) -> UploadRow | None:
    """The model or dataset (`kind`) with the digest `upload_id`."""
    return session.get(UploadRow, (project_of(session), kind, upload_id))


def upload_blob(session: Session, kind: str, upload_id: str) -> BlobRef | None:
    """The contents of an upload; None if there is no such upload."""
    row = find_upload(session, kind, upload_id)
    return None if row is None else find_blob(session, row.blob_id)

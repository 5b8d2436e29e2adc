"""SQL on the rows of blobs: what is written, complete, in use."""

from __future__ import annotations

from sqlalchemy import ColumnElement, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.store.blobs.references import BlobMissing, BlobRef
from app.store.engine import Sessions, clock, project_of
from app.store.tables import BlobRow

UNKNOWN_DIGEST = "0" * 64
"""Of contents that have not arrived whole."""


def find_blob(session: Session, blob_id: int) -> BlobRef:
    """The complete blob `blob_id`.

    Raises:
        BlobMissing: it does not exist or is not complete.
    """
    row = session.get(BlobRow, blob_id)
    if row is None or row.state != "complete":
        raise BlobMissing(f"blob {blob_id} is {'gone' if row is None else row.state}")
    return BlobRef(row.id, row.sha256, row.size_bytes, row.location)


def keep_blob(session: Session, blob: BlobRef) -> None:
    """Make sure that `blob` stays until this transaction, which refers to it, has ended.

    A foreign key alone does not: on PostgreSQL it lets `remove_abandoned` mark the blob, which does not see the new
    reference yet. Touching the blob makes the cleaning wait, look again, and find it fresh.

    Raises:
        BlobMissing: it is gone, or about to go.
    """
    if _touch(session, BlobRow.id == blob.id, BlobRow.state == "complete") is None:
        raise BlobMissing(f"blob {blob.id} was removed because nothing referred to it; store its contents again")


def touch_complete(session: Session, sha256: str) -> BlobRef | None:
    """The project's complete blob with these contents, in use from now on; None if there is none."""
    return _touch(
        session, BlobRow.project_id == project_of(session), BlobRow.sha256 == sha256, BlobRow.state == "complete"
    )


def touch_writing(session: Session, blob_id: int) -> None:
    """Say that `blob_id` is still being written.

    Raises:
        BlobMissing: it was taken for abandoned.
    """
    if _touch(session, BlobRow.id == blob_id, BlobRow.state == "writing") is None:
        raise BlobMissing(f"blob {blob_id} was taken for abandoned while it was written; write it again")


def new_blob(session: Session, sha256: str, size_bytes: int, location: str | None) -> int:
    """The number of a new blob whose contents are about to be written."""
    now = clock(session)
    row = BlobRow(
        project_id=project_of(session),
        sha256=sha256,
        size_bytes=size_bytes,
        state="writing",
        created_at=now,
        touched_at=now,
        location=location,
    )
    session.add(row)
    session.flush()
    return row.id


def complete(sessions: Sessions, blob: BlobRef) -> BlobRef:
    """Say that all of `blob` is written; gives the blob with these contents that counts, which may be an older one.

    Raises:
        BlobMissing: it was taken for abandoned.
    """
    try:
        with sessions.begin() as session:
            touch_writing(session, blob.id)
            session.execute(
                update(BlobRow)
                .where(BlobRow.id == blob.id)
                .values(state="complete", sha256=blob.sha256, size_bytes=blob.size_bytes)
            )
            return blob
    except IntegrityError:
        # uq_blobs_project_id_sha256_complete: somebody else finished the same contents first.
        with sessions.begin() as session:
            winner = touch_complete(session, blob.sha256)
        if winner is None:
            raise
        return winner


def _touch(session: Session, *which: ColumnElement[bool]) -> BlobRef | None:
    """Say that the one blob of which this holds is in use; None if it holds of none."""
    row = session.execute(
        update(BlobRow)
        .where(*which)
        .values(touched_at=clock(session))
        .returning(BlobRow.id, BlobRow.sha256, BlobRow.size_bytes, BlobRow.location)
    ).first()
    return None if row is None else BlobRef(row.id, row.sha256, row.size_bytes, row.location)

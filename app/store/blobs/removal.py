"""Taking contents away: those that nothing refers to, and those whose writer is gone."""

from __future__ import annotations

import logging
from datetime import timedelta

from sqlalchemy import and_, case, delete, exists, select, update

from app.store.engine import Sessions, clock
from app.store.objects import StorageUnavailable
from app.store.tables import ArtifactRow, BlobChunkRow, BlobRow, OpenUploadRow, StageResultRow, UploadRow

logger = logging.getLogger(__name__)

_REFERRING = (UploadRow, ArtifactRow, StageResultRow, OpenUploadRow)
_CHUNKS_PER_TRANSACTION = 64


def remove_blob(sessions: Sessions, blob_id: int) -> None:
    """Remove a blob that nothing refers to, in several short transactions; may be repeated after a crash.

    The row goes last: as long as there are contents anywhere, it says where.

    Raises:
        app.store.objects.StorageUnavailable: its contents cannot be removed now; the row stays and says so.
    """
    with sessions.begin() as session:
        row = session.execute(
            update(BlobRow)
            .where(BlobRow.id == blob_id)
            .values(state="deleting")
            .returning(BlobRow.location, BlobRow.size_bytes)
        ).first()
    if row is not None and row.location is not None:
        sessions.objects.remove(row.location, row.size_bytes)
    while True:
        with sessions.begin() as session:
            first = session.scalars(
                select(BlobChunkRow.seq)
                .where(BlobChunkRow.blob_id == blob_id)
                .order_by(BlobChunkRow.seq)
                .limit(_CHUNKS_PER_TRANSACTION)
            ).all()
            session.execute(delete(BlobChunkRow).where(BlobChunkRow.blob_id == blob_id, BlobChunkRow.seq.in_(first)))
            if not first:
                session.execute(delete(BlobRow).where(BlobRow.id == blob_id))
                return


def remove_abandoned(sessions: Sessions, untouched: timedelta, at_most: int | None = None) -> int:
    """Remove blobs whose writer stopped, and complete blobs that nothing refers to; returns how many.

    A storage that does not answer keeps its contents, and their rows, until the next time.

    Args:
        untouched: how long nobody may have written to a blob, stored its contents again, or referred to it. It must
            exceed the time from storing a result to the commit that refers to it, and what a request to the storage
            beside the database may take.
        at_most: how many to remove now, the longest untouched first; None: all.
    """
    with sessions.begin() as session:
        now = clock(session)
        limit = now - untouched
        unreferenced = [~exists().where(table.blob_id == BlobRow.id) for table in _REFERRING]
        # A writer of a storage beside the database may just be storing a part, and learns from the mark that it must
        # stop: it gets the same time again, so that nothing comes after the removal.
        may_be_storing = and_(BlobRow.state == "writing", BlobRow.location.is_not(None))
        # One statement: a writer that stores the same contents meanwhile either touches the blob first, and it stays,
        # or finds it no longer complete, and writes its own.
        abandoned = (BlobRow.touched_at < limit, BlobRow.state.in_(("writing", "complete")), *unreferenced)
        first = select(BlobRow.id).where(*abandoned).order_by(BlobRow.touched_at).limit(at_most)
        session.execute(
            update(BlobRow)
            .where(BlobRow.id.in_(first), *abandoned)
            .values(state="deleting", touched_at=case((may_be_storing, now), else_=BlobRow.touched_at))
        )
        deleting = BlobRow.touched_at < limit, BlobRow.state == "deleting"
        due = session.scalars(select(BlobRow.id).where(*deleting).order_by(BlobRow.touched_at).limit(at_most)).all()
    removed = 0
    for blob_id in due:
        try:
            remove_blob(sessions, blob_id)
        except (StorageUnavailable, OSError) as error:
            logger.warning("blob %d is removed later: %s", blob_id, error)
        else:
            removed += 1
    return removed

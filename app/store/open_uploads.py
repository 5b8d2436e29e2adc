"""SQL on uploads that come in pieces. What has arrived are chunks in the database, wherever contents go once whole.

An upload is `received_bytes` long in every moment that anybody can see: a piece and the new length are one transaction.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from datetime import datetime, timedelta

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from app.store.blobs.reading import stored_chunks
from app.store.blobs.rows import UNKNOWN_DIGEST, new_blob, touch_writing
from app.store.blobs.writing import CHUNK_BYTES, insert_chunks
from app.store.engine import Sessions, clock, project_of
from app.store.tables import BlobChunkRow, BlobRow, OpenUploadRow


class OffsetTaken(RuntimeError):
    """The upload does not end where the piece begins: another request was faster, or it is finished or gone."""


def find_open_upload(session: Session, open_id: str) -> OpenUploadRow | None:
    """The upload in pieces with this id."""
    row = session.get(OpenUploadRow, open_id)
    return row if row is not None and row.project_id == project_of(session) else None


def count_open_uploads(session: Session) -> int:
    """How many uploads of the project are not finished."""
    return session.scalars(
        select(func.count())
        .select_from(OpenUploadRow)
        .where(OpenUploadRow.project_id == project_of(session), OpenUploadRow.upload_id.is_(None))
    ).one()


def add_open_upload(
    session: Session, open_id: str, kind: str, name: str | None, size_bytes: int, expires_after: timedelta
) -> None:
    """An upload of which nothing has arrived; from now on it counts among what the project stores."""
    now = clock(session)
    session.add(
        OpenUploadRow(
            id=open_id,
            project_id=project_of(session),
            kind=kind,
            name=name,
            size_bytes=size_bytes,
            received_bytes=0,
            blob_id=new_blob(session, UNKNOWN_DIGEST, size_bytes, None),
            created_at=now,
            expires_at=now + expires_after,
        )
    )


def append(session: Session, open_id: str, offset: int, data: bytes) -> None:
    """Add `data`, at least one byte, to an upload that is `offset` bytes long.

    Raises:
        OffsetTaken: it is not.
        BlobMissing: what had arrived was taken for abandoned.
    """
    row = session.execute(
        update(OpenUploadRow)
        .where(
            OpenUploadRow.id == open_id,
            OpenUploadRow.project_id == project_of(session),
            OpenUploadRow.received_bytes == offset,
            OpenUploadRow.upload_id.is_(None),
        )
        .values(received_bytes=offset + len(data))
        .returning(OpenUploadRow.blob_id)
    ).first()
    if row is None:
        raise OffsetTaken(f"the upload {open_id} is not {offset} bytes long")
    blob_id = row.blob_id
    touch_writing(session, blob_id)
    seq, over = divmod(offset, CHUNK_BYTES)
    if over:
        # Chunks are full but for the last: its piece goes in front of the new one.
        last = BlobChunkRow.blob_id == blob_id, BlobChunkRow.seq == seq
        data = session.scalars(select(BlobChunkRow.data).where(*last)).one() + data
        session.execute(delete(BlobChunkRow).where(*last))
    chunks = [data[start : start + CHUNK_BYTES] for start in range(0, len(data), CHUNK_BYTES)]
    insert_chunks(session, blob_id, seq, chunks)


def release_room(session: Session, blob_id: int) -> None:
    """Let what has arrived no longer count: it is about to be stored elsewhere."""
    session.execute(update(BlobRow).where(BlobRow.id == blob_id).values(size_bytes=0))


def finish_open_upload(session: Session, open_id: str, upload_id: str) -> None:
    """Say what the upload in pieces became; what arrived of it is nobody's any more."""
    session.execute(
        update(OpenUploadRow)
        .where(OpenUploadRow.id == open_id, OpenUploadRow.project_id == project_of(session))
        .values(upload_id=upload_id, blob_id=None)
    )


def remove_open_upload(session: Session, open_id: str) -> None:
    """Forget an upload in pieces; what has arrived of it is removed as all that nothing refers to."""
    session.execute(
        delete(OpenUploadRow).where(OpenUploadRow.id == open_id, OpenUploadRow.project_id == project_of(session))
    )


def remove_expired_uploads(session: Session, now: datetime) -> int:
    """Forget the uploads in pieces, of all projects, whose time is over; returns how many."""
    gone = session.scalars(delete(OpenUploadRow).where(OpenUploadRow.expires_at < now).returning(OpenUploadRow.id))
    return len(gone.all())


def received_file(sessions: Sessions, blob_id: int, size_bytes: int) -> io.BufferedReader:
    """What has arrived as a file to read, positioned at its beginning. Raises `BlobMissing` while it is read."""
    return io.BufferedReader(_Arrived(sessions, blob_id, size_bytes), CHUNK_BYTES)


class _Arrived(io.RawIOBase):
    def __init__(self, sessions: Sessions, blob_id: int, size_bytes: int) -> None:
        super().__init__()
        self._sessions, self._blob_id, self._size_bytes = sessions, blob_id, size_bytes
        self._at = 0
        self._chunks: Iterator[bytes] = iter(())
        self._rest = b""

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size_bytes}[whence]
        self._at = max(base + offset, 0)
        self._chunks = stored_chunks(self._sessions, self._blob_id, self._size_bytes, self._at)
        self._rest = b""
        return self._at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        if self._at == 0 and not self._rest:
            self.seek(0)
        self._rest = self._rest or next(self._chunks, b"")
        part = self._rest[: len(buffer)]
        buffer[: len(part)] = part
        self._rest = self._rest[len(part) :]
        self._at += len(part)
        return len(part)

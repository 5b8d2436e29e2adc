"""Contents in chunks of 1 MiB, by their digest.

Functions here open their own short transactions: a transaction that lasts as long as a client sends, or as 500 MB
take, would hold back everybody else on SQLite and the cleaning of tables on PostgreSQL.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import BinaryIO

from sqlalchemy import ColumnElement, delete, exists, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.store.engine import Sessions, clock, project_of
from app.store.tables import ArtifactRow, BlobChunkRow, BlobRow, StageResultRow, UploadRow

CHUNK_BYTES = 1024**2
"""Measured on PostgreSQL: 1 MiB is written twice as fast as chunks of 64 MiB, and read three times as fast."""
CHUNKS_PER_TRANSACTION = 8


class BlobDamaged(RuntimeError):
    """Stored contents do not have the digest under which they are stored."""


class BlobMissing(LookupError):
    """There are no complete contents under this number."""


@dataclass(frozen=True, slots=True)
class BlobRef:
    """Complete contents in the store."""

    id: int
    sha256: str
    size_bytes: int

    def __post_init__(self) -> None:
        if len(self.sha256) != 64 or self.size_bytes < 0:
            raise ValueError(f"no blob has digest {self.sha256!r} and size {self.size_bytes}")


def write_bytes(sessions: Sessions, data: bytes) -> BlobRef:
    """Store `data`; contents that are there already are stored once."""
    return write_stream(sessions, io.BytesIO(data), hashlib.sha256(data).hexdigest(), len(data))


def write_stream(sessions: Sessions, stream: BinaryIO, sha256: str, size_bytes: int) -> BlobRef:
    """Store what `stream` holds from here to its end, and check it against the digest on the way in.

    Any number of writers may store the same contents at the same time: the first to finish wins, the others drop
    what they wrote and get the winner's blob. A writer that dies leaves a blob in state `writing`, which nobody reads
    and `remove_abandoned` takes away.

    Raises:
        BlobDamaged: the stream does not have this digest and size.
        BlobMissing: the writer was so slow that its blob was taken for abandoned.
    """
    with sessions.begin() as session:
        present = _touch_complete(session, sha256)
        if present is not None:
            return present
        blob_id = _new_blob(session, sha256, size_bytes)

    digest, written, seq = hashlib.sha256(), 0, 0
    while chunks := _next_chunks(stream):
        with sessions.begin() as session:
            _touch_writing(session, blob_id)
            rows = [{"blob_id": blob_id, "seq": seq + i, "data": chunk} for i, chunk in enumerate(chunks)]
            session.connection().execute(BlobChunkRow.__table__.insert(), rows)  # type: ignore[attr-defined]
        for chunk in chunks:
            digest.update(chunk)
            written += len(chunk)
        seq += len(chunks)

    if digest.hexdigest() != sha256 or written != size_bytes:
        remove_blob(sessions, blob_id)
        raise BlobDamaged(
            f"expected {size_bytes} bytes with SHA-256 {sha256} to store, got {written} bytes with "
            f"{digest.hexdigest()}; the source changed while it was read"
        )
    return _complete(sessions, blob_id, sha256, size_bytes)


def find_blob(session: Session, blob_id: int) -> BlobRef:
    """The complete blob `blob_id`.

    Raises:
        BlobMissing: it does not exist or is not complete.
    """
    row = session.get(BlobRow, blob_id)
    if row is None or row.state != "complete":
        raise BlobMissing(f"blob {blob_id} is {'gone' if row is None else row.state}")
    return BlobRef(row.id, row.sha256, row.size_bytes)


def keep_blob(session: Session, blob: BlobRef) -> None:
    """Make sure that `blob` stays until this transaction, which refers to it, has ended.

    A foreign key alone does not: on PostgreSQL it lets `remove_abandoned` mark the blob, which does not see the new
    reference yet. Touching the blob makes the cleaning wait, look again, and find it fresh.

    Raises:
        BlobMissing: it is gone, or about to go.
    """
    if _touch(session, BlobRow.id == blob.id, BlobRow.state == "complete") is None:
        raise BlobMissing(f"blob {blob.id} was removed because nothing referred to it; store its contents again")


def read_blob(sessions: Sessions, blob: BlobRef) -> Iterator[bytes]:
    """The contents in chunks of at most 1 MiB, each read in a transaction of its own.

    The last chunk comes only after the digest of the whole has been checked: who got `size_bytes` bytes got the right
    ones, and a download of damaged contents breaks off.

    Raises:
        BlobDamaged: the stored contents do not have their digest.
        BlobMissing: the blob was removed.
    """
    digest, seen, seq = hashlib.sha256(), 0, 0
    while seen < blob.size_bytes:
        with sessions.read() as session:
            chunk = session.scalar(
                select(BlobChunkRow.data).where(BlobChunkRow.blob_id == blob.id, BlobChunkRow.seq == seq)
            )
        if chunk is None:
            raise BlobMissing(f"chunk {seq} of blob {blob.id} ({blob.size_bytes} bytes) is gone")
        digest.update(chunk)
        seen += len(chunk)
        seq += 1
        if seen >= blob.size_bytes and (seen > blob.size_bytes or digest.hexdigest() != blob.sha256):
            raise BlobDamaged(
                f"blob {blob.id} should be {blob.size_bytes} bytes with SHA-256 {blob.sha256}, got {seen} bytes with "
                f"{digest.hexdigest()}; restore the database from a backup"
            )
        yield chunk


def read_bytes(sessions: Sessions, blob: BlobRef) -> bytes:
    """The contents in one piece, for those known to be small. Raises as `read_blob`."""
    return b"".join(read_blob(sessions, blob))


def open_blob_to_file(sessions: Sessions, blob: BlobRef, path: Path) -> Path:
    """Write the contents to a new file at `path` and return it; on an error no file is left. Raises as `read_blob`."""
    with path.open("xb") as file:
        try:
            for chunk in read_blob(sessions, blob):
                file.write(chunk)
        except BaseException:
            path.unlink()
            raise
    return path


def remove_blob(sessions: Sessions, blob_id: int) -> None:
    """Remove a blob that nothing refers to, in several short transactions; may be repeated after a crash."""
    with sessions.begin() as session:
        session.execute(update(BlobRow).where(BlobRow.id == blob_id).values(state="deleting"))
    while True:
        with sessions.begin() as session:
            first = session.scalars(
                select(BlobChunkRow.seq)
                .where(BlobChunkRow.blob_id == blob_id)
                .order_by(BlobChunkRow.seq)
                .limit(8 * CHUNKS_PER_TRANSACTION)
            ).all()
            session.execute(delete(BlobChunkRow).where(BlobChunkRow.blob_id == blob_id, BlobChunkRow.seq.in_(first)))
            if not first:
                session.execute(delete(BlobRow).where(BlobRow.id == blob_id))
                return


def remove_abandoned(sessions: Sessions, untouched: timedelta) -> int:
    """Remove blobs whose writer stopped, and complete blobs that nothing refers to; returns how many.

    `untouched`: how long nobody may have written to a blob, stored its contents again, or referred to it. It must
    exceed the time from storing a result to the commit that refers to it.
    """
    with sessions.begin() as session:
        limit = clock(session) - untouched
        unreferenced = [
            ~exists().where(table.blob_id == BlobRow.id) for table in (UploadRow, ArtifactRow, StageResultRow)
        ]
        # One statement: a writer that stores the same contents meanwhile either touches the blob first, and it stays,
        # or finds it no longer complete, and writes its own.
        marked = session.scalars(
            update(BlobRow)
            .where(BlobRow.touched_at < limit, BlobRow.state.in_(("writing", "complete")), *unreferenced)
            .values(state="deleting")
            .returning(BlobRow.id)
        ).all()
        left_over = session.scalars(
            select(BlobRow.id).where(BlobRow.touched_at < limit, BlobRow.state == "deleting")
        ).all()
    for blob_id in {*marked, *left_over}:
        remove_blob(sessions, blob_id)
    return len({*marked, *left_over})


def _touch(session: Session, *which: ColumnElement[bool]) -> BlobRef | None:
    """Say that the one blob of which this holds is in use; None if it holds of none."""
    row = session.execute(
        update(BlobRow)
        .where(*which)
        .values(touched_at=clock(session))
        .returning(BlobRow.id, BlobRow.sha256, BlobRow.size_bytes)
    ).first()
    return None if row is None else BlobRef(row.id, row.sha256, row.size_bytes)


def _touch_complete(session: Session, sha256: str) -> BlobRef | None:
    return _touch(
        session, BlobRow.project_id == project_of(session), BlobRow.sha256 == sha256, BlobRow.state == "complete"
    )


def _new_blob(session: Session, sha256: str, size_bytes: int) -> int:
    now = clock(session)
    row = BlobRow(
        project_id=project_of(session),
        sha256=sha256,
        size_bytes=size_bytes,
        state="writing",
        created_at=now,
        touched_at=now,
    )
    session.add(row)
    session.flush()
    return row.id


def _touch_writing(session: Session, blob_id: int) -> None:
    if _touch(session, BlobRow.id == blob_id, BlobRow.state == "writing") is None:
        raise BlobMissing(f"blob {blob_id} was taken for abandoned while it was written; write it again")


def _complete(sessions: Sessions, blob_id: int, sha256: str, size_bytes: int) -> BlobRef:
    try:
        with sessions.begin() as session:
            _touch_writing(session, blob_id)
            session.execute(update(BlobRow).where(BlobRow.id == blob_id).values(state="complete"))
            return BlobRef(blob_id, sha256, size_bytes)
    except IntegrityError:
        # uq_blobs_project_id_sha256_complete: somebody else finished the same contents first.
        with sessions.begin() as session:
            winner = _touch_complete(session, sha256)
        if winner is None:
            raise
        remove_blob(sessions, blob_id)
        return winner


def _next_chunks(stream: BinaryIO) -> list[bytes]:
    chunks: list[bytes] = []
    while len(chunks) < CHUNKS_PER_TRANSACTION and (chunk := stream.read(CHUNK_BYTES)):
        chunks.append(chunk)
    return chunks

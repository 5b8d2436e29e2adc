"""Storing contents: in short transactions, checked against their digest on the way in."""

from __future__ import annotations

import hashlib
import io

from sqlalchemy.orm import Session

from app.store.blobs.references import BlobDamaged, BlobRef, Source
from app.store.blobs.removal import remove_blob
from app.store.blobs.rows import complete, new_blob, touch_complete, touch_writing
from app.store.engine import Sessions
from app.store.objects import PART_BYTES
from app.store.tables import BlobChunkRow

CHUNK_BYTES = 1024**2
"""Measured on PostgreSQL: 1 MiB is written twice as fast as chunks of 64 MiB, and read three times as fast. Where a
byte lies follows from this number, so that it is a part of what is stored."""
CHUNKS_PER_TRANSACTION = 8


def write_bytes(sessions: Sessions, data: bytes) -> BlobRef:
    """Store `data`; contents that are there already are stored once."""
    return write_stream(sessions, io.BytesIO(data), hashlib.sha256(data).hexdigest(), len(data))


def write_stream(sessions: Sessions, stream: Source, sha256: str, size_bytes: int) -> BlobRef:
    """Store what `stream` holds from here to its end, and check it against the digest on the way in.

    Any number of writers may store the same contents at the same time: the first to finish wins, the others drop
    what they wrote and get the winner's blob. A writer that dies leaves a blob in state `writing`, which nobody reads
    and `remove_abandoned` takes away, wherever its contents lie: its row was there first.

    Raises:
        BlobDamaged: the stream does not have this digest and size.
        BlobMissing: the writer was so slow that its blob was taken for abandoned.
        app.store.objects.StorageUnavailable: the storage beside the database does not take it.
    """
    location = sessions.objects.new_location()
    with sessions.begin() as session:
        present = touch_complete(session, sha256)
        if present is not None:
            return present
        blob = BlobRef(new_blob(session, sha256, size_bytes, location), sha256, size_bytes, location)

    digest, written, seq = hashlib.sha256(), 0, 0
    most = CHUNKS_PER_TRANSACTION if location is None else PART_BYTES // CHUNK_BYTES
    while chunks := _next_chunks(stream, most):
        for chunk in chunks:
            digest.update(chunk)
            written += len(chunk)
        if written > size_bytes:
            break  # the size says which parts a removal looks for
        _write(sessions, blob, seq, chunks)
        seq += len(chunks)

    if digest.hexdigest() != sha256 or written != size_bytes:
        remove_blob(sessions, blob.id)
        raise BlobDamaged(
            f"expected {size_bytes} bytes with SHA-256 {sha256} to store, got {written} bytes with "
            f"{digest.hexdigest()}; the source changed while it was read"
        )
    kept = complete(sessions, blob)
    if kept.id != blob.id:
        remove_blob(sessions, blob.id)
    return kept


def _write(sessions: Sessions, blob: BlobRef, seq: int, chunks: list[bytes]) -> None:
    with sessions.begin() as session:
        touch_writing(session, blob.id)
        if blob.location is None:
            insert_chunks(session, blob.id, seq, chunks)
    if blob.location is not None:
        sessions.objects.put(blob.location, seq * CHUNK_BYTES // PART_BYTES, chunks)


def insert_chunks(session: Session, blob_id: int, seq: int, chunks: list[bytes]) -> None:
    """Add chunks to a blob in the database, the first with the number `seq`."""
    rows = [{"blob_id": blob_id, "seq": seq + i, "data": chunk} for i, chunk in enumerate(chunks)]
    session.connection().execute(BlobChunkRow.__table__.insert(), rows)  # type: ignore[attr-defined]


def _next_chunks(stream: Source, most: int) -> list[bytes]:
    chunks: list[bytes] = []
    while len(chunks) < most and (chunk := _next_chunk(stream)):
        chunks.append(chunk)
    return chunks


def _next_chunk(stream: Source) -> bytes:
    # A stream may give less than it is asked for, a chunk may not have less than its place.
    chunk = stream.read(CHUNK_BYTES)
    while 0 < len(chunk) < CHUNK_BYTES and (more := stream.read(CHUNK_BYTES - len(chunk))):
        chunk += more
    return chunk

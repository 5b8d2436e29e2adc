"""Reading contents: in pieces, whole and checked against their digest, or a range of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import select

from app.store.blobs.references import BlobDamaged, BlobMissing, BlobRef
from app.store.blobs.writing import CHUNK_BYTES
from app.store.engine import Sessions
from app.store.tables import BlobChunkRow


def read_blob(sessions: Sessions, blob: BlobRef) -> Iterator[bytes]:
    """The contents in chunks of at most 1 MiB, each read in a transaction of its own.

    The last chunk comes only after the digest of the whole has been checked: who got `size_bytes` bytes got the right
    ones, and a download of damaged contents breaks off.

    Raises:
        BlobDamaged: the stored contents do not have their digest.
        BlobMissing: the blob was removed.
        app.store.objects.StorageUnavailable: the storage beside the database does not answer.
    """
    digest, seen = hashlib.sha256(), 0
    for chunk in _chunks(sessions, blob, 0, blob.size_bytes):
        digest.update(chunk)
        seen += len(chunk)
        if seen >= blob.size_bytes:
            break
        yield chunk
    if seen != blob.size_bytes or (seen and digest.hexdigest() != blob.sha256):
        where = "the database" if blob.location is None else "the storage of contents"
        raise BlobDamaged(
            f"blob {blob.id} should be {blob.size_bytes} bytes with SHA-256 {blob.sha256}, got {seen} bytes with "
            f"{digest.hexdigest()}; restore {where} from a backup"
        )
    if seen:
        yield chunk


def read_range(sessions: Sessions, blob: BlobRef, start: int, stop: int) -> Iterator[bytes]:
    """The bytes from `start` to before `stop`, in chunks of at most 1 MiB; nothing else of the blob is read.

    The digest is one of the whole: of a part it is checked only that it is as long as it should be. A range that is
    the whole is read as such.

    Raises:
        BlobDamaged: there are fewer bytes than there should be.
        BlobMissing: the blob was removed.
        app.store.objects.StorageUnavailable: the storage beside the database does not answer.
        ValueError: there is no such range.
    """
    if not 0 <= start < stop <= blob.size_bytes:
        raise ValueError(f"blob {blob.id} has {blob.size_bytes} bytes and no range from {start} to {stop}")
    if (start, stop) == (0, blob.size_bytes):
        yield from read_blob(sessions, blob)
        return
    missing = stop - start
    for chunk in _chunks(sessions, blob, start, stop):
        missing -= len(chunk)
        yield chunk
    if missing:
        raise BlobDamaged(f"blob {blob.id} lacks {missing} of the {stop - start} bytes from {start} on")


def read_bytes(sessions: Sessions, blob: BlobRef) -> bytes:
    """The contents in one piece, for those known to be small. Raises as `read_blob`."""
    return b"".join(read_blob(sessions, blob))


def read_json(sessions: Sessions, blob: BlobRef) -> dict[str, Any]:
    """The contents, which are a JSON object that this service wrote. Raises as `read_blob`."""
    document: dict[str, Any] = json.loads(read_bytes(sessions, blob))
    return document


def _go_on() -> None:
    """Nobody waits for news."""


def open_blob_to_file(sessions: Sessions, blob: BlobRef, path: Path, check: Callable[[], None] = _go_on) -> Path:
    """Write the contents to a new file at `path` and return it; on an error no file is left. Raises as `read_blob`.

    Args:
        check: called for every piece; what it raises ends the call.
    """
    with path.open("xb") as file:
        try:
            for chunk in read_blob(sessions, blob):
                file.write(chunk)
                check()
        except BaseException:
            path.unlink()
            raise
    return path


def stored_chunks(sessions: Sessions, blob_id: int, size_bytes: int, start: int = 0) -> Iterator[bytes]:
    """Bytes from `start` to before `size_bytes` of a blob in the database that may not be complete yet.

    Raises:
        BlobMissing: it lacks a chunk.
    """
    for seq in range(start // CHUNK_BYTES, -(-size_bytes // CHUNK_BYTES)):
        with sessions.read() as session:
            chunk = session.scalar(
                select(BlobChunkRow.data).where(BlobChunkRow.blob_id == blob_id, BlobChunkRow.seq == seq)
            )
        if chunk is None:
            raise BlobMissing(f"chunk {seq} of blob {blob_id} ({size_bytes} bytes) is gone")
        yield chunk[max(start - seq * CHUNK_BYTES, 0) :]


def _chunks(sessions: Sessions, blob: BlobRef, start: int, stop: int) -> Iterator[bytes]:
    if blob.location is None:
        left = stop - start
        for chunk in stored_chunks(sessions, blob.id, stop, start):
            # A whole that is longer than it should be is for `read_blob` to see.
            part = chunk if stop == blob.size_bytes else chunk[:left]
            left -= len(part)
            yield part
        return
    try:
        yield from sessions.objects.read(blob.location, start, stop)
    except FileNotFoundError as error:
        raise BlobMissing(f"a part of blob {blob.id} ({blob.size_bytes} bytes) is gone from {blob.location}") from error

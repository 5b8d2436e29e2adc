"""Taking in models and datasets."""

from __future__ import annotations

from typing import BinaryIO

from app.store import uploads
from app.store.blobs import write_stream
from app.store.engine import Sessions, clock
from app.store.tables import UploadRow


def store_upload(
    sessions: Sessions, kind: str, contents: BinaryIO, sha256: str, size_bytes: int, name: str | None
) -> tuple[UploadRow, bool]:
    """Store an upload whose digest is known; the row, and whether it is new.

    Args:
        kind: `model` or `dataset`.
        contents: positioned at its beginning.
        name: replaces the name of contents that were uploaded before; None keeps it.
    """
    blob = write_stream(sessions, contents, sha256, size_bytes)
    with sessions.begin() as session:
        created = uploads.put_upload(session, kind, blob, name, clock(session))
        row = uploads.find_upload(session, kind, blob.sha256)
        if row is None:
            raise LookupError(f"the {kind} {blob.sha256} vanished in the transaction that stored it")
        return row, created

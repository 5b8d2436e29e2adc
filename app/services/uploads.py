"""Taking in models and datasets."""

from __future__ import annotations

from typing import BinaryIO

from app.store.blobs import write_stream
from app.store.engine import Sessions, clock
from app.store.tables import UploadRow
from app.store.uploads import put_upload


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
        return put_upload(session, kind, blob, name, clock(session))

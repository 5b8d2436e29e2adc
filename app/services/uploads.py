"""Taking in models and datasets."""

from __future__ import annotations

from typing import BinaryIO

from app.access.quotas import admit_bytes, check_room, check_samples
from app.store.audit import record
from app.store.blobs import write_stream
from app.store.engine import Sessions, clock
from app.store.tables import UploadRow
from app.store.uploads import find_upload, put_upload


def store_upload(
    sessions: Sessions, kind: str, contents: BinaryIO, sha256: str, size_bytes: int, name: str | None
) -> tuple[UploadRow, bool]:
    """Store an upload whose digest is known; the row, and whether it is new.

    Args:
        kind: `model` or `dataset`.
        contents: positioned at its beginning.
        name: replaces the name of contents that were uploaded before; None keeps it.

    Raises:
        AppError: `quota_exceeded`; `dataset_invalid` where samples are counted and cannot be.
    """
    if kind == "dataset":
        check_samples(sessions, contents)
    with sessions.read() as session:
        # What is there already takes no more room.
        if find_upload(session, kind, sha256) is None:
            check_room(session, size_bytes)
    blob = write_stream(sessions, contents, sha256, size_bytes)
    with sessions.begin() as session:
        row, created = put_upload(session, kind, blob, name, clock(session))
        if created:
            admit_bytes(session)
        if created or name is not None:
            record(session, "upload.create" if created else "upload.name", f"/v1/{kind}s/{sha256}", {"name": row.name})
        return row, created

"""Taking in models and datasets, and finding them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import BinaryIO

from app.access.quotas import admit_bytes, check_room, check_samples
from app.errors import AppError
from app.services.cursors import from_cursor, to_cursor
from app.store.audit import record
from app.store.blobs import write_stream
from app.store.engine import Sessions, clock
from app.store.tables import UploadRow
from app.store.uploads import UploadFilter, find_upload, list_uploads, put_upload

_DIGEST = re.compile(r"[0-9a-f]{64}")


def store_upload(
    sessions: Sessions,
    kind: str,
    contents: BinaryIO,
    sha256: str,
    size_bytes: int,
    name: str | None,
    *,
    tags: Sequence[str] | None = None,
    pinned: bool | None = None,
    room_reserved: bool = False,
) -> tuple[UploadRow, bool]:
    """Store an upload whose digest is known; the row, and whether it is new.

    Args:
        kind: `model` or `dataset`.
        contents: positioned at its beginning.
        name, tags, pinned: replace those of contents that were uploaded before; None keeps them.
        room_reserved: the contents are stored already, and count.

    Raises:
        AppError: `quota_exceeded`; `dataset_invalid` where samples are counted and cannot be.
    """
    if kind == "dataset":
        check_samples(sessions, contents)
    with sessions.read() as session:
        # What is there already takes no more room.
        if not room_reserved and find_upload(session, kind, sha256) is None:
            check_room(session, size_bytes)
    blob = write_stream(sessions, contents, sha256, size_bytes)
    with sessions.begin() as session:
        row, created = put_upload(session, kind, blob, name, clock(session))
        if tags is not None:
            row.tags = sorted(set(tags)) or None
        if pinned is not None:
            row.pinned = pinned
        if created:
            admit_bytes(session)
        given = {"name": name, "tags": row.tags if tags is not None else None, "pinned": pinned}
        changes = {label: value for label, value in given.items() if value is not None}
        if created or changes:
            told = {"name": row.name} | changes
            record(session, "upload.create" if created else "upload.change", f"/v1/{kind}s/{sha256}", told)
        return row, created


def get(sessions: Sessions, kind: str, upload_id: str) -> UploadRow:
    """The model or dataset (`kind`) with this id.

    Raises:
        AppError: `not_found`.
    """
    with sessions.read() as session:
        upload = find_upload(session, kind, known_id(kind, upload_id))
    if upload is None:
        raise unknown_upload(kind, upload_id)
    return upload


def recent(
    sessions: Sessions, kind: str, wanted: UploadFilter, limit: int, cursor: str | None
) -> tuple[Sequence[UploadRow], str | None]:
    """Models or datasets, newest first, and the cursor of the next page; None when there are no more.

    Raises:
        AppError: `request_invalid`: the cursor is not valid.
    """
    before = from_cursor(cursor)
    with sessions.read() as session:
        rows = list_uploads(session, kind, wanted, limit + 1, before)
    page = rows[:limit]
    return page, to_cursor(page[-1].created_at, page[-1].id) if len(rows) > limit else None


def known_id(kind: str, upload_id: str) -> str:
    """`upload_id`, which may be that of a model or dataset (`kind`).

    Raises:
        AppError: `not_found`: it is no digest.
    """
    if not _DIGEST.fullmatch(upload_id):
        raise unknown_upload(kind, upload_id)
    return upload_id


def unknown_upload(kind: str, upload_id: str) -> AppError:
    """The error `not_found` of a model or dataset."""
    return AppError("not_found", f"no {kind} has the id {upload_id[:80]!r}; GET /v1/{kind}s lists them")

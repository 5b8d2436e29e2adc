"""Uploads that come in pieces, by the tus protocol: its rules are the library's, what it stores is here.

Every request makes its own server: a few attributes over the transactions of the caller's project.
"""

from __future__ import annotations

import hashlib
import re
from datetime import datetime, timedelta
from typing import Any

from resumable_upload.server import TusServerCore
from resumable_upload.storage import Storage

from app.access.quotas import admit_bytes, check_room
from app.errors import AppError
from app.services.uploads import store_upload
from app.settings import Settings
from app.store import open_uploads
from app.store.blobs import BlobMissing, BlobRef, find_blob, remove_blob
from app.store.blobs.rows import complete
from app.store.engine import Sessions
from app.store.tables import OpenUploadRow

PATH = "/v1/uploads"
EXPIRES_AFTER = timedelta(days=1)
MOST_OPEN = 100
"""Uploads of one project that may be unfinished at once."""
LIMITS = {
    "model": ("max_model_bytes", "BITBUDGET_MAX_MODEL_BYTES"),
    "dataset": ("max_dataset_bytes", "BITBUDGET_MAX_DATASET_BYTES"),
}

_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_NAME = re.compile(r"[^\x00-\x1f\x7f]{1,255}")


class TusServer(TusServerCore):
    """The protocol with the extensions that what is stored here can keep."""

    SUPPORTED_EXTENSIONS = ["creation", "expiration", "termination"]  # noqa: RUF012 - the type that the library has

    def __init__(self, sessions: Sessions, settings: Settings) -> None:
        super().__init__(
            _Pieces(sessions, settings),
            base_path=PATH,
            max_size=max(getattr(settings, name) for name, _ in LIMITS.values()),
            upload_expiry=int(EXPIRES_AFTER.total_seconds()),
            # A body is handed on in several parts, each a request to the library: a sum of the whole fits none.
            checksum_algorithms=(),
            disable_concatenation=True,
        )


class _Pieces(Storage):
    """Uploads in pieces as the library sees them. What it finds wrong itself are `AppError`s, which pass through."""

    def __init__(self, sessions: Sessions, settings: Settings) -> None:
        self._sessions = sessions
        self._settings = settings

    def create_upload(
        self,
        upload_id: str,
        upload_length: int | None,
        metadata: dict[str, str],
        expires_at: datetime | None = None,  # noqa: ARG002 - the clock of the database decides
        is_partial: bool = False,  # noqa: ARG002 - there are none
    ) -> None:
        kind, name = metadata.get("kind", ""), metadata.get("name")
        if kind not in LIMITS:
            raise AppError(
                "request_malformed", f"Upload-Metadata needs the kind model or dataset, in Base64, got {kind[:80]!r}"
            )
        if name is not None and not _NAME.fullmatch(name):
            raise AppError("request_malformed", "a name has 1 to 255 characters, none of them a control character")
        if not upload_length:
            raise AppError("request_malformed", "expected an Upload-Length above 0, the size of the file in bytes")
        field, setting = LIMITS[kind]
        limit: int = getattr(self._settings, field)
        if upload_length > limit:
            raise AppError(
                "payload_too_large",
                f"a {kind} may have at most {limit} bytes, got {upload_length} bytes; whoever runs the service can "
                f"raise {setting}",
            )
        with self._sessions.begin() as session:
            if open_uploads.count_open_uploads(session) >= MOST_OPEN:
                raise AppError(
                    "quota_exceeded",
                    f"the project has {MOST_OPEN} unfinished uploads; finish them, or DELETE those that are not needed",
                    headers={"Retry-After": "60"},
                )
            check_room(session, upload_length)
            open_uploads.add_open_upload(session, upload_id, kind, name, upload_length, EXPIRES_AFTER)
            admit_bytes(session)  # of several that begin at once

    def get_upload(self, upload_id: str) -> dict[str, Any] | None:
        with self._sessions.read() as session:
            row = open_uploads.find_open_upload(session, upload_id)
        if row is None:
            return None
        return {
            "upload_length": row.size_bytes,
            "offset": row.received_bytes,
            "metadata": {"kind": row.kind} | ({} if row.name is None else {"name": row.name}),
            "expires_at": row.expires_at,
            "completed": row.upload_id is not None,
        }

    def write_chunk(self, upload_id: str, offset: int, data: bytes) -> None:
        if not data:
            return
        try:
            with self._sessions.begin() as session:
                open_uploads.append(session, upload_id, offset, data)
        except (open_uploads.OffsetTaken, BlobMissing) as error:
            raise AppError(
                "upload_offset_mismatch", f"{error}; ask with HEAD how long it is, and go on there"
            ) from error

    def update_offset_atomic(self, upload_id: str, expected_offset: int, new_offset: int) -> bool:  # noqa: ARG002
        return True  # `write_chunk` has stored the length with the piece

    def update_offset(self, upload_id: str, offset: int) -> None:
        raise NotImplementedError("the first piece comes with the first PATCH")

    def complete_upload(self, upload_id: str) -> bool:
        finish(self._sessions, upload_id)
        return True

    def delete_upload(self, upload_id: str) -> None:
        with self._sessions.begin() as session:
            open_uploads.remove_open_upload(session, upload_id)

    def read_file(self, upload_id: str) -> bytes:
        raise NotImplementedError("what has arrived is not given back")

    def get_expired_uploads(self) -> list[str]:
        return []

    def cleanup_expired_uploads(self) -> int:
        return 0  # the dispatcher's work


def get(sessions: Sessions, open_id: str) -> OpenUploadRow:
    """The upload in pieces `open_id`, finished if all of it has arrived: its last answer may have been lost.

    Raises:
        AppError: `not_found`, and what `finish` raises.
    """
    row = _find(sessions, open_id)
    if row.upload_id is None and row.received_bytes == row.size_bytes:
        return finish(sessions, open_id)
    return row


def finish(sessions: Sessions, open_id: str) -> OpenUploadRow:
    """Make a model or a dataset of what has arrived, all of it; may be repeated, at the same time too.

    Raises:
        AppError: `not_found`: it was removed meanwhile; and what `store_upload` raises.
    """
    row = _find(sessions, open_id)
    blob_id = row.blob_id
    if row.upload_id is not None or blob_id is None:
        return row
    try:
        sha256 = _digest(sessions, blob_id, row.size_bytes)
        here = sessions.objects.new_location() is None
        if here:
            _adopt(sessions, BlobRef(blob_id, sha256, row.size_bytes))
        else:
            with sessions.begin() as session:
                open_uploads.release_room(session, blob_id)
        with open_uploads.received_file(sessions, blob_id, row.size_bytes) as file:
            stored, _ = store_upload(sessions, row.kind, file, sha256, row.size_bytes, row.name, room_reserved=here)
    except BlobMissing as error:
        row = _find(sessions, open_id)  # somebody else may have finished it
        if row.upload_id is None:
            raise AppError("not_found", f"what had arrived of the upload {open_id} was removed meanwhile") from error
        return row
    with sessions.begin() as session:
        open_uploads.finish_open_upload(session, open_id, sha256)
    if stored.blob_id != blob_id:
        remove_blob(sessions, blob_id)
    return _find(sessions, open_id)


def _find(sessions: Sessions, open_id: str) -> OpenUploadRow:
    with sessions.read() as session:
        row = open_uploads.find_open_upload(session, open_id) if _ID.fullmatch(open_id) else None
    if row is None:
        raise AppError(
            "not_found", f"no unfinished upload has the id {open_id[:64]!r}; they are kept for a day. Begin a new one"
        )
    return row


def _digest(sessions: Sessions, blob_id: int, size_bytes: int) -> str:
    digest = hashlib.sha256()
    with open_uploads.received_file(sessions, blob_id, size_bytes) as file:
        while part := file.read(1024**2):
            digest.update(part)
    return digest.hexdigest()


def _adopt(sessions: Sessions, blob: BlobRef) -> None:
    """Let what has arrived be the blob itself, unless there is one with the same contents."""
    try:
        complete(sessions, blob)
    except BlobMissing:
        with sessions.read() as session:
            find_blob(session, blob.id)  # a finish that was broken off came this far

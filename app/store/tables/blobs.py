"""Contents, and what refers to them by a name of its own."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, LargeBinary, String, Text, false, text
from sqlalchemy.orm import Mapped, mapped_column

from app.store.tables.base import DEFAULT_PROJECT, Base, BigId, Digest, Json, OfProject, UtcDateTime


class BlobRow(OfProject, Base):
    """Contents by project and digest: equal contents of two projects are stored twice.

    `writing` until the last chunk is in, then `complete`; `deleting` is never read again.
    """

    __tablename__ = "blobs"

    id: Mapped[int] = mapped_column(BigId, primary_key=True, autoincrement=True)
    sha256: Mapped[str] = mapped_column(Digest)
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    state: Mapped[str] = mapped_column(String(8))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    touched_at: Mapped[datetime] = mapped_column(UtcDateTime)
    """Last write of a chunk, or last time that these contents were to be stored."""
    location: Mapped[str | None] = mapped_column(Text)
    """Name in the storage beside the database; None: the contents are chunks in the database."""

    __table_args__ = (
        CheckConstraint("state IN ('writing', 'complete', 'deleting')", name="state"),
        # Several may write the same contents at once; the first to finish is the one that counts.
        Index(
            "uq_blobs_project_id_sha256_complete",
            "project_id",
            "sha256",
            unique=True,
            sqlite_where=text("state = 'complete'"),
            postgresql_where=text("state = 'complete'"),
        ),
        Index("ix_blobs_state_touched_at", "state", "touched_at"),
        # Without it SQLite gives the number of the last blob again after its deletion.
        {"sqlite_autoincrement": True},
    )


class BlobChunkRow(Base):
    """One piece of a blob, 1 MiB but for the last. On PostgreSQL stored outside of the row and uncompressed."""

    __tablename__ = "blob_chunks"

    blob_id: Mapped[int] = mapped_column(ForeignKey("blobs.id"), primary_key=True)
    seq: Mapped[int] = mapped_column(primary_key=True)
    data: Mapped[bytes] = mapped_column(LargeBinary)


class UploadRow(Base):
    """What a user uploaded; within a project the digest is the identity."""

    __tablename__ = "uploads"

    project_id: Mapped[str] = mapped_column(String(32), primary_key=True, server_default=text(f"'{DEFAULT_PROJECT}'"))
    kind: Mapped[str] = mapped_column(String(8), primary_key=True)
    id: Mapped[str] = mapped_column(Digest, primary_key=True)
    name: Mapped[str] = mapped_column(String(255))
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    blob_id: Mapped[int] = mapped_column(ForeignKey("blobs.id"), index=True)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    used_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    """When a job last named it, to the day, or it was sent again; None: never, or before this was written down."""
    tags: Mapped[list[str] | None] = mapped_column(Json)
    pinned: Mapped[bool] = mapped_column(server_default=false())
    """Kept however old it is."""

    __table_args__ = (CheckConstraint("kind IN ('model', 'dataset')", name="kind"),)


class OpenUploadRow(OfProject, Base):
    """An upload that comes in pieces: what has arrived are chunks of a blob that is still being written.

    The row stays after the last piece, until it expires, so that a client that lost the answer finds the result.
    """

    __tablename__ = "open_uploads"

    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    kind: Mapped[str] = mapped_column(String(8))
    name: Mapped[str | None] = mapped_column(String(255))
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    received_bytes: Mapped[int] = mapped_column(BigInteger)
    blob_id: Mapped[int | None] = mapped_column(ForeignKey("blobs.id"), index=True)
    """What has arrived; None: it belongs to the upload that it became."""
    upload_id: Mapped[str | None] = mapped_column(Digest)
    """The upload that it became; None: not all has arrived, or it is still being checked."""
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    expires_at: Mapped[datetime] = mapped_column(UtcDateTime, index=True)

    __table_args__ = (
        CheckConstraint("kind IN ('model', 'dataset')", name="kind"),
        Index("ix_open_uploads_project_id", "project_id"),
    )

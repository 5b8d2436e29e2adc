"""The tables. Times are UTC, sizes bytes, digests SHA-256 in lower-case hexadecimal."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Text,
    TypeDecorator,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class UtcDateTime(TypeDecorator[datetime]):
    """An aware time, UTC in and out. SQLite would forget the zone, PostgreSQL would answer in the session's."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, _dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"times in the database are aware, got the naive {value!r}")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, _dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


# SQLite numbers rows by itself only in a column declared INTEGER.
BigId = BigInteger().with_variant(Integer, "sqlite")
Json = JSON(none_as_null=True)
Digest = String(64)
JobId = String(32)


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


class BlobRow(Base):
    """Contents by digest. `writing` until the last chunk is in, then `complete`; `deleting` is never read again."""

    __tablename__ = "blobs"

    id: Mapped[int] = mapped_column(BigId, primary_key=True, autoincrement=True)
    sha256: Mapped[str] = mapped_column(Digest)
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    state: Mapped[str] = mapped_column(String(8))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    touched_at: Mapped[datetime] = mapped_column(UtcDateTime)
    """Last write of a chunk, or last time that these contents were to be stored."""

    __table_args__ = (
        CheckConstraint("state IN ('writing', 'complete', 'deleting')", name="state"),
        # Several may write the same contents at once; the first to finish is the one that counts.
        Index(
            "uq_blobs_sha256_complete",
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
    """What a user uploaded; the digest is the identity."""

    __tablename__ = "uploads"

    kind: Mapped[str] = mapped_column(String(8), primary_key=True)
    id: Mapped[str] = mapped_column(Digest, primary_key=True)
    name: Mapped[str] = mapped_column(String(255))
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    blob_id: Mapped[int] = mapped_column(ForeignKey("blobs.id"), index=True)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)

    __table_args__ = (CheckConstraint("kind IN ('model', 'dataset')", name="kind"),)


class JobRow(Base):
    """A job: its request, who works on it, how far it is, how it ended."""

    __tablename__ = "jobs"

    id: Mapped[str] = mapped_column(JobId, primary_key=True)
    parent_id: Mapped[str | None] = mapped_column(ForeignKey("jobs.id"))
    """The job of which this is a replan."""
    model_id: Mapped[str] = mapped_column(Digest)
    dataset_id: Mapped[str | None] = mapped_column(Digest)
    request: Mapped[dict[str, Any]] = mapped_column(Json)
    """The request with every default filled in."""

    state: Mapped[str] = mapped_column(String(9))
    outcome: Mapped[str | None] = mapped_column(String(16))
    cancel_requested: Mapped[bool] = mapped_column(default=False)

    owner: Mapped[str | None] = mapped_column(String(255))
    """The worker that claimed the job last; kept after the end, as a record."""
    attempt: Mapped[int] = mapped_column(default=0)
    """Claims so far. With the owner it fences off a worker that lost the job and does not know it."""
    released: Mapped[int] = mapped_column(default=0)
    """Claims that the worker gave back in good order; they do not count against the job."""
    lease_until: Mapped[datetime | None] = mapped_column(UtcDateTime)
    announce_at: Mapped[datetime] = mapped_column(UtcDateTime)
    """When a job that is still queued is announced to the workers again."""
    announcements: Mapped[int] = mapped_column(default=0)

    stage: Mapped[str | None] = mapped_column(String(64))
    progress: Mapped[float] = mapped_column(default=0.0)
    eta_seconds: Mapped[float | None]
    estimate: Mapped[dict[str, Any] | None] = mapped_column(Json)
    """What the last stage that was estimated is expected to take; see `app.lifecycle.states.Estimate`."""
    last_event: Mapped[int] = mapped_column(default=0)
    """Number of the job's newest event."""

    summary: Mapped[dict[str, Any] | None] = mapped_column(Json)
    error_code: Mapped[str | None] = mapped_column(String(64))
    error_detail: Mapped[str | None] = mapped_column(Text)

    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    started_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    finished_at: Mapped[datetime | None] = mapped_column(UtcDateTime)

    __table_args__ = (
        CheckConstraint("state IN ('queued', 'running', 'succeeded', 'failed', 'cancelled')", name="state"),
        CheckConstraint("(state = 'running') = (lease_until IS NOT NULL)", name="lease"),
        CheckConstraint("(state = 'failed') = (error_code IS NOT NULL)", name="error"),
        CheckConstraint("(state = 'succeeded') = (outcome IS NOT NULL)", name="outcome"),
        Index("ix_jobs_created_at_id", "created_at", "id"),
        Index("ix_jobs_state_created_at", "state", "created_at"),
        Index("ix_jobs_state_lease_until", "state", "lease_until"),
        Index("ix_jobs_state_announce_at", "state", "announce_at"),
    )


class JobEventRow(Base):
    """What happened to a job, numbered from 1 in the order of the commits."""

    __tablename__ = "job_events"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    seq: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(String(32))
    data: Mapped[dict[str, Any]] = mapped_column(Json)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)


class ArtifactRow(Base):
    """A result of a finished job."""

    __tablename__ = "artifacts"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    kind: Mapped[str] = mapped_column(String(32), primary_key=True)
    blob_id: Mapped[int] = mapped_column(ForeignKey("blobs.id"), index=True)
    media_type: Mapped[str] = mapped_column(String(255))


class StageResultRow(Base):
    """The result of a stage under a key made of all that it depends on; shared by every job with that key."""

    __tablename__ = "stage_results"

    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    blob_id: Mapped[int] = mapped_column(ForeignKey("blobs.id"), index=True)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)


class IdempotencyRow(Base):
    """An Idempotency-Key, the request that used it first, and the job that it made."""

    __tablename__ = "idempotency"

    scope: Mapped[str] = mapped_column(String(64), primary_key=True)
    """The call that the key belongs to: keys of different calls are different keys."""
    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    fingerprint: Mapped[str] = mapped_column(Digest)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)


class WorkerRow(Base):
    """A worker that reported to be alive."""

    __tablename__ = "workers"

    name: Mapped[str] = mapped_column(String(255), primary_key=True)
    started_at: Mapped[datetime] = mapped_column(UtcDateTime)
    seen_at: Mapped[datetime] = mapped_column(UtcDateTime, index=True)

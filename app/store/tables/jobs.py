"""Jobs, what happened to them, and what they made."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import CheckConstraint, ForeignKey, Index, String, Text, false, text
from sqlalchemy.orm import Mapped, mapped_column

from app.store.tables.base import DEFAULT_PROJECT, Base, Digest, JobId, Json, OfProject, UtcDateTime


class JobRow(OfProject, Base):
    """A job: its request, who works on it, how far it is, how it ended."""

    __tablename__ = "jobs"

    id: Mapped[str] = mapped_column(JobId, primary_key=True)
    parent_id: Mapped[str | None] = mapped_column(ForeignKey("jobs.id"))
    """The job of which this is a replan."""
    model_id: Mapped[str] = mapped_column(Digest)
    dataset_id: Mapped[str | None] = mapped_column(Digest)
    request: Mapped[dict[str, Any]] = mapped_column(Json)
    """The request with every default filled in."""

    name: Mapped[str | None] = mapped_column(String(255))
    tags: Mapped[list[str] | None] = mapped_column(Json)
    priority: Mapped[int] = mapped_column(server_default=text("0"))
    """Jobs with more of it are claimed first, whatever their project."""
    pinned: Mapped[bool] = mapped_column(server_default=false())
    """Kept however old it is."""
    trace: Mapped[str | None] = mapped_column(String(255))
    """The `traceparent` (W3C) of the request that made the job."""

    state: Mapped[str] = mapped_column(String(9))
    outcome: Mapped[str | None] = mapped_column(String(16))
    cancel_requested: Mapped[bool] = mapped_column(default=False)

    owner: Mapped[str | None] = mapped_column(String(255))
    """The worker that claimed the job last; kept after the end, as a record."""
    attempt: Mapped[int] = mapped_column(default=0)
    """Claims so far. With the owner it fences off a worker that lost the job and does not know it."""
    fruitless: Mapped[int] = mapped_column(server_default=text("0"))
    """Claims in a row that ended with a lost worker before a result was stored; a new result sets it to 0."""
    open_chunks: Mapped[int] = mapped_column(server_default=text("0"))
    """Chunks of the running stage that nobody works on yet: what other workers may help with."""
    lease_until: Mapped[datetime | None] = mapped_column(UtcDateTime)

    stage: Mapped[str | None] = mapped_column(String(64))
    progress: Mapped[float] = mapped_column(default=0.0)
    eta_seconds: Mapped[float | None]
    estimate: Mapped[dict[str, Any] | None] = mapped_column(Json)
    """What the job was last expected to take; see `app.lifecycle.states.Estimate`."""
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
        Index("ix_jobs_project_id_created_at_id", "project_id", "created_at", "id"),
    )


class JobUploadRow(Base):
    """An upload that a job reads. No foreign key: an upload may go before the jobs that have ended with it."""

    __tablename__ = "job_uploads"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    kind: Mapped[str] = mapped_column(String(8), primary_key=True)
    upload_id: Mapped[str] = mapped_column(Digest, primary_key=True, index=True)


class JobEventRow(Base):
    """What happened to a job, numbered from 1 in the order of the commits."""

    __tablename__ = "job_events"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    seq: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(String(32))
    data: Mapped[dict[str, Any]] = mapped_column(Json)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)


class JobLogRow(Base):
    """A line of a job's log, numbered from 1."""

    __tablename__ = "job_logs"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    seq: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[datetime] = mapped_column(UtcDateTime)
    level: Mapped[str] = mapped_column(String(16))
    text: Mapped[str] = mapped_column(Text)


class ArtifactRow(Base):
    """A result of a finished job."""

    __tablename__ = "artifacts"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    kind: Mapped[str] = mapped_column(String(32), primary_key=True)
    blob_id: Mapped[int] = mapped_column(ForeignKey("blobs.id"), index=True)
    media_type: Mapped[str] = mapped_column(String(255))


class StageResultRow(Base):
    """The result of a stage under a key made of all that it depends on; shared by every job of the project with it."""

    __tablename__ = "stage_results"

    project_id: Mapped[str] = mapped_column(String(32), primary_key=True, server_default=text(f"'{DEFAULT_PROJECT}'"))
    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    blob_id: Mapped[int] = mapped_column(ForeignKey("blobs.id"), index=True)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    used_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    """When a job last read it; None: never, or before this was written down."""


class ChunkClaimRow(Base):
    """A chunk of a stage that a worker computes now; the result itself is a stage result under the same key."""

    __tablename__ = "chunk_claims"

    project_id: Mapped[str] = mapped_column(String(32), primary_key=True)
    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    owner: Mapped[str] = mapped_column(String(255))
    lease_until: Mapped[datetime] = mapped_column(UtcDateTime, index=True)


class IdempotencyRow(Base):
    """An Idempotency-Key, the request that used it first, and the job that it made."""

    __tablename__ = "idempotency"

    project_id: Mapped[str] = mapped_column(String(32), primary_key=True, server_default=text(f"'{DEFAULT_PROJECT}'"))
    scope: Mapped[str] = mapped_column(String(64), primary_key=True)
    """The call that the key belongs to: keys of different calls are different keys."""
    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    fingerprint: Mapped[str] = mapped_column(Digest)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)

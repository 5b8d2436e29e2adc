"""Projects, the keys to them, and who did what."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from app.store.tables.base import Base, BigId, Digest, Json, UtcDateTime


class ProjectRow(Base):
    """What everything belongs to. A quota that is None is that of the settings."""

    __tablename__ = "projects"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    name: Mapped[str] = mapped_column(String(255), unique=True)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    claimed_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    """When a worker last claimed a job of the project: whose turn is longest ago is next."""
    described_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    """When a worker last took a description of the project: turns of their own, as those of jobs."""
    max_bytes: Mapped[int | None] = mapped_column(BigInteger)
    max_queued: Mapped[int | None]
    max_running: Mapped[int | None]
    max_samples: Mapped[int | None]
    max_requests_per_minute: Mapped[int | None]
    keep_days: Mapped[int | None]
    """How long finished jobs and unused uploads stay; None: the default of the settings."""


class KeyRow(Base):
    """A key of the API; only its SHA-256 is kept, so that nobody who reads the table can use one."""

    __tablename__ = "keys"

    id: Mapped[str] = mapped_column(String(16), primary_key=True)
    """The part of the key that may be shown and logged."""
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), index=True)
    role: Mapped[str] = mapped_column(String(8))
    sha256: Mapped[str] = mapped_column(Digest, unique=True)
    label: Mapped[str | None] = mapped_column(String(255))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    expires_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    revoked_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    used_at: Mapped[datetime | None] = mapped_column(UtcDateTime)

    __table_args__ = (CheckConstraint("role IN ('admin', 'member', 'viewer')", name="role"),)


class AuditRow(Base):
    """Who changed what, in the transaction of the change."""

    __tablename__ = "audit"

    id: Mapped[int] = mapped_column(BigId, primary_key=True, autoincrement=True)
    project_id: Mapped[str] = mapped_column(String(32))
    key_id: Mapped[str | None] = mapped_column(String(16))
    """None: the command line, the service itself, or a service without keys."""
    action: Mapped[str] = mapped_column(String(64))
    subject: Mapped[str | None] = mapped_column(Text)
    """What it was done to, as the path of the API, e.g. `/v1/jobs/{id}`."""
    detail: Mapped[dict[str, Any] | None] = mapped_column(Json)
    at: Mapped[datetime] = mapped_column(UtcDateTime)

    __table_args__ = (Index("ix_audit_project_id_at_id", "project_id", "at", "id"), {"sqlite_autoincrement": True})

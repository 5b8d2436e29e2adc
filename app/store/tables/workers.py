"""Who works."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import String
from sqlalchemy.orm import Mapped, mapped_column

from app.store.tables.base import Base, JobId, UtcDateTime


class WorkerRow(Base):
    """A worker that reported to be alive."""

    __tablename__ = "workers"

    name: Mapped[str] = mapped_column(String(255), primary_key=True)
    started_at: Mapped[datetime] = mapped_column(UtcDateTime)
    seen_at: Mapped[datetime] = mapped_column(UtcDateTime, index=True)
    progressed_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    """When it last claimed something, found nothing to claim, or got on with what it claimed."""
    job_id: Mapped[str | None] = mapped_column(JobId)
    """The job that it works on or helps with."""
    processor: Mapped[str | None] = mapped_column(String(255))

"""Who works, and how long the work takes."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, Float, String
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


class StageSecondsRow(Base):
    """How often a stage took no longer than `upper_seconds`, and longer than the next smaller bound; since ever.

    Counters in the database, so that every API process shows the same, and a scrape reads a few dozen rows.
    """

    __tablename__ = "stage_seconds"

    stage: Mapped[str] = mapped_column(String(64), primary_key=True)
    upper_seconds: Mapped[float] = mapped_column(Float, primary_key=True)
    runs: Mapped[int] = mapped_column(BigInteger)
    seconds: Mapped[float] = mapped_column(Float)
    """The sum of what these runs took."""

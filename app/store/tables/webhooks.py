"""Addresses that are told what happens to jobs, and what they are to be told."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import CheckConstraint, ForeignKey, Index, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from app.store.tables.base import Base, JobId, Json, OfProject, UtcDateTime


class WebhookRow(OfProject, Base):
    """An address that wants to know."""

    __tablename__ = "webhooks"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    url: Mapped[str] = mapped_column(Text)
    secret: Mapped[str] = mapped_column(String(255))
    """What deliveries are signed with, so it has to be kept as it is; shown once, when it is made."""
    events: Mapped[list[str] | None] = mapped_column(Json)
    """The kinds of messages that it gets; None: every kind, also those of later versions."""
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    failing_since: Mapped[datetime | None] = mapped_column(UtcDateTime)
    """When the first try since the last success failed; None: the last try succeeded, or there was none."""

    __table_args__ = (Index("ix_webhooks_project_id", "project_id"),)


class DeliveryRow(Base):
    """One message for one address; written with the change that it tells of, sent until it is taken."""

    __tablename__ = "webhook_deliveries"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    """Made of the webhook, the job and the number of the event, so that no event can be written down twice."""
    webhook_id: Mapped[str] = mapped_column(ForeignKey("webhooks.id"))
    job_id: Mapped[str | None] = mapped_column(JobId)
    kind: Mapped[str] = mapped_column(String(32))
    payload: Mapped[dict[str, Any]] = mapped_column(Json)
    state: Mapped[str] = mapped_column(String(9))
    attempts: Mapped[int] = mapped_column(default=0)
    """Tries that were begun. It fences off a sender that was too slow: another one has begun the next try."""
    next_at: Mapped[datetime] = mapped_column(UtcDateTime)
    """When it may be taken for the next try; while one runs, when that is taken for lost."""
    give_up_at: Mapped[datetime] = mapped_column(UtcDateTime)
    """After this no try follows one that failed."""
    tried_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    """When the last try ended."""
    status: Mapped[int | None]
    """HTTP status of the last answer; None: there was none."""
    last_error: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    delivered_at: Mapped[datetime | None] = mapped_column(UtcDateTime)

    __table_args__ = (
        CheckConstraint("state IN ('pending', 'delivered', 'failed')", name="state"),
        Index("ix_webhook_deliveries_state_next_at", "state", "next_at"),
        Index("ix_webhook_deliveries_webhook_id_created_at_id", "webhook_id", "created_at", "id"),
    )

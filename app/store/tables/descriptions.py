"""What was recognised in uploads."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import CheckConstraint, ForeignKeyConstraint, Index, String, Text, text
from sqlalchemy.orm import Mapped, mapped_column

from app.store.tables.base import DEFAULT_PROJECT, Base, Digest, Json, UtcDateTime


class DescriptionRow(Base):
    """The description of one upload: asked for, made by a worker, and gone with the upload.

    `pending` until a worker has written the document (`ready`) or why there is none (`failed`).
    """

    __tablename__ = "descriptions"

    project_id: Mapped[str] = mapped_column(String(32), primary_key=True, server_default=text(f"'{DEFAULT_PROJECT}'"))
    kind: Mapped[str] = mapped_column(String(8), primary_key=True)
    upload_id: Mapped[str] = mapped_column(Digest, primary_key=True)
    version: Mapped[int]
    """Of what a description holds: one of an older version is made anew."""
    state: Mapped[str] = mapped_column(String(8))
    owner: Mapped[str | None] = mapped_column(String(255))
    lease_until: Mapped[datetime | None] = mapped_column(UtcDateTime)
    """Until then `owner` is at it; None: nobody is."""
    attempts: Mapped[int] = mapped_column(server_default=text("0"))
    document: Mapped[dict[str, Any] | None] = mapped_column(Json)
    problem_code: Mapped[str | None] = mapped_column(String(64))
    problem_detail: Mapped[str | None] = mapped_column(Text)
    asked_at: Mapped[datetime] = mapped_column(UtcDateTime)

    __table_args__ = (
        ForeignKeyConstraint(
            ["project_id", "kind", "upload_id"],
            ["uploads.project_id", "uploads.kind", "uploads.id"],
            name="fk_descriptions_upload",
            ondelete="CASCADE",
        ),
        CheckConstraint("state IN ('pending', 'ready', 'failed')", name="state"),
        CheckConstraint("(state = 'ready') = (document IS NOT NULL)", name="document"),
        CheckConstraint("(state = 'failed') = (problem_code IS NOT NULL)", name="problem"),
        Index("ix_descriptions_state_asked_at", "state", "asked_at"),
    )

"""SQL on the record of who changed what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.store.engine import clock, key_of, project_of
from app.store.tables import AuditRow


def record(session: Session, action: str, subject: str | None = None, detail: Mapping[str, Any] | None = None) -> None:
    """Write down, in the transaction of the change itself, what the caller of this transaction does.

    Args:
        action: a noun and a verb, e.g. `job.cancel`, at most 64 characters.
        subject: the path of what it is done to, e.g. `/v1/jobs/{id}`.
        detail: a small JSON object; no contents, no keys.
    """
    session.add(
        AuditRow(
            project_id=project_of(session),
            key_id=key_of(session),
            action=action,
            subject=subject,
            detail=None if detail is None else dict(detail),
            at=clock(session),
        )
    )


def list_entries(session: Session, *, limit: int, until: datetime | None, skipped: int) -> Sequence[AuditRow]:
    """Entries of this project, newest first.

    Args:
        until: the newest that may come; None: whatever is there.
        skipped: how many of those are left out.
    """
    query = select(AuditRow).where(AuditRow.project_id == project_of(session))
    if until is not None:
        query = query.where(AuditRow.at <= until)
    return session.scalars(query.order_by(AuditRow.at.desc(), AuditRow.id.desc()).offset(skipped).limit(limit)).all()

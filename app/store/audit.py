"""SQL on the record of who changed what."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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

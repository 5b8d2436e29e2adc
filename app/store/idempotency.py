"""SQL on idempotency keys."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.store.engine import project_of
from app.store.statements import insert
from app.store.tables import IdempotencyRow


def take_key(
    session: Session, scope: str, key: str, fingerprint: str, job_id: str, now: datetime
) -> IdempotencyRow | None:
    """Take the key for `job_id`; None if it was free, else the row of the request that used it first.

    Waits for a transaction that took the same key and has not ended yet. The job must be in the table already.
    """
    project = project_of(session)
    taken = session.scalar(
        insert(session, IdempotencyRow)
        .values(project_id=project, scope=scope, key=key, fingerprint=fingerprint, job_id=job_id, created_at=now)
        .on_conflict_do_nothing()
        .returning(IdempotencyRow.key)
    )
    return session.get_one(IdempotencyRow, (project, scope, key)) if taken is None else None


def find_job_of_key(session: Session, key: str) -> str | None:
    """The job that a request with this key made, whichever call it was; None: there was no such request."""
    project = project_of(session)
    query = select(IdempotencyRow.job_id).where(IdempotencyRow.project_id == project, IdempotencyRow.key == key)
    return session.scalar(query.limit(1))

"""SQL on the workers that reported to be alive."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from app.store.statements import insert
from app.store.tables import WorkerRow


def put_worker(
    session: Session, name: str, now: datetime, *, job_id: str | None, progressed: bool, processor: str | None
) -> None:
    """Write down that the worker was seen: with which job, and whether it gets on, with that or with waiting."""
    seen = {"seen_at": now, "job_id": job_id, "processor": processor} | ({"progressed_at": now} if progressed else {})
    statement = insert(session, WorkerRow).values(name=name, started_at=now, **seen)
    session.execute(statement.on_conflict_do_update(index_elements=["name"], set_=seen))


def remove_worker(session: Session, name: str) -> None:
    session.execute(delete(WorkerRow).where(WorkerRow.name == name))


def remove_workers_unseen(session: Session, since: datetime) -> None:
    session.execute(delete(WorkerRow).where(WorkerRow.seen_at < since))


def count_idle(session: Session, since: datetime) -> int:
    """Workers that were seen at `since` or later, without a job."""
    idle = select(func.count()).select_from(WorkerRow).where(WorkerRow.seen_at >= since, WorkerRow.job_id.is_(None))
    return session.scalars(idle).one()


def count_progressing(session: Session, since: datetime) -> int:
    """Workers that were seen to get on at `since` or later, or that started then."""
    progressed = func.coalesce(WorkerRow.progressed_at, WorkerRow.started_at)
    return session.scalars(select(func.count()).select_from(WorkerRow).where(progressed >= since)).one()


def count_workers(session: Session, since: datetime, prefix: str = "") -> int:
    """Workers that were seen at `since` or later and whose names begin with `prefix`."""
    seen = select(func.count()).select_from(WorkerRow).where(WorkerRow.seen_at >= since)
    return session.scalars(seen.where(WorkerRow.name.startswith(prefix, autoescape=True))).one()

"""SQL on figures about all projects, for whoever runs the service; each statement reads an index, or a few rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.store.tables import BlobRow, DeliveryRow, JobRow, ProjectRow, WorkerRow

MOST_PROJECTS = 50
"""Projects that are told one by one, those with the largest figure; each is a series of its own."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """The queue of one project."""

    project: str
    """Its name."""
    jobs: int
    oldest: datetime
    """When the job that waits longest was created."""


def count_by_state(session: Session) -> dict[str, int]:
    return _as_dict(session.execute(select(JobRow.state, func.count()).group_by(JobRow.state)).all())


def count_failed_by_code(session: Session) -> dict[str, int]:
    failed = select(JobRow.error_code, func.count()).where(JobRow.state == "failed").group_by(JobRow.error_code)
    return _as_dict(session.execute(failed).all())


def waiting_by_project(session: Session) -> Sequence[Waiting]:
    """The queues of the projects that have waited longest."""
    oldest = func.min(JobRow.created_at)
    waiting = (
        select(JobRow.project_id, func.count().label("jobs"), oldest.label("oldest"))
        .where(JobRow.state == "queued")
        .group_by(JobRow.project_id)
        .order_by(oldest)
        .limit(MOST_PROJECTS)
        .subquery()
    )
    named = select(func.coalesce(ProjectRow.name, waiting.c.project_id), waiting.c.jobs, waiting.c.oldest)
    rows = session.execute(named.outerjoin(ProjectRow, ProjectRow.id == waiting.c.project_id)).all()
    return [Waiting(*row) for row in rows]


def stored_bytes_by_project(session: Session) -> dict[str, int]:
    """Contents of the projects that store most, by the name of the project."""
    size = func.sum(BlobRow.size_bytes)
    stored = (
        select(BlobRow.project_id, size.label("size"))
        .where(BlobRow.state == "complete")
        .group_by(BlobRow.project_id)
        .order_by(size.desc())
        .limit(MOST_PROJECTS)
        .subquery()
    )
    named = select(func.coalesce(ProjectRow.name, stored.c.project_id), stored.c.size)
    return _as_dict(session.execute(named.outerjoin(ProjectRow, ProjectRow.id == stored.c.project_id)).all())


def count_deliveries(session: Session) -> dict[str, int]:
    """Messages to webhooks that were not taken yet, by state."""
    open_states = ("pending", "failed")
    counted = select(DeliveryRow.state, func.count()).where(DeliveryRow.state.in_(open_states))
    return dict.fromkeys(open_states, 0) | _as_dict(session.execute(counted.group_by(DeliveryRow.state)).all())


def count_busy(session: Session, since: datetime) -> int:
    """Workers that were seen at `since` or later, with a job of their own or another worker's."""
    busy = select(func.count()).select_from(WorkerRow)
    return session.scalars(busy.where(WorkerRow.seen_at >= since, WorkerRow.job_id.is_not(None))).one()


def _as_dict(rows: Iterable[Sequence[Any]]) -> dict[str, int]:
    return {str(row[0]): int(row[1]) for row in rows}

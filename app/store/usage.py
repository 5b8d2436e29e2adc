"""SQL on how much a project takes."""

from __future__ import annotations

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.store.engine import project_of
from app.store.tables import BlobRow, JobRow, ProjectRow


def hold_project(session: Session) -> None:
    """Make every other transaction that asks for this wait until this one has ended: of two that each fit alone, the
    second sees the first. On SQLite a writing transaction has the whole database."""
    session.execute(select(ProjectRow.id).where(ProjectRow.id == project_of(session)).with_for_update())


def bytes_stored(session: Session) -> int:
    """Bytes of all contents of this project, those among them that are still being written."""
    kept = BlobRow.project_id == project_of(session), BlobRow.state != "deleting"
    return int(session.scalar(select(func.coalesce(func.sum(BlobRow.size_bytes), 0)).where(*kept)) or 0)


def jobs_by_state(session: Session) -> dict[str, int]:
    """How many jobs this project has, by state."""
    ours = JobRow.project_id == project_of(session)
    counted = session.execute(select(JobRow.state, func.count()).where(ours).group_by(JobRow.state))
    return {row[0]: row[1] for row in counted}


def jobs_queued(session: Session) -> int:
    """How many jobs of this project wait."""
    waiting = JobRow.project_id == project_of(session), JobRow.state == "queued"
    return session.scalars(select(func.count()).select_from(JobRow).where(*waiting)).one()

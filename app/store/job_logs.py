"""SQL on the logs of jobs: their first and their last lines, whatever is said in between."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from app.store.engine import project_of
from app.store.statements import storable
from app.store.tables import JobLogRow, JobRow

FIRST_LINES = 1_000
LAST_LINES = 1_000
LINE_CHARACTERS = 2_000
LEVELS = ("debug", "info", "warning", "error")


@dataclass(frozen=True, slots=True)
class LogLine:
    """What was said about a job; `text` is cut to `LINE_CHARACTERS` when it is stored."""

    at: datetime
    level: str
    text: str

    def __post_init__(self) -> None:
        if self.level not in LEVELS:
            raise ValueError(f"the level of a line is one of {', '.join(LEVELS)}, got {self.level!r}")


def add_lines(session: Session, job_id: str, lines: Sequence[LogLine]) -> bool:
    """Number the lines after those that are there, and keep the first and the last ones of the job.

    False, and nothing stored, if the project of the transaction has no such job.
    """
    # Several workers may write about one job at once: the lock of its row gives their lines an order.
    ours = select(JobRow.id).where(JobRow.id == job_id, JobRow.project_id == project_of(session))
    if session.scalar(ours.with_for_update()) is None:
        return False
    last = session.scalar(select(func.max(JobLogRow.seq)).where(JobLogRow.job_id == job_id)) or 0
    newest = last + len(lines)
    for seq, line in enumerate(lines, last + 1):
        if not _left_out(seq, newest):
            text = storable(line.text, LINE_CHARACTERS)
            session.add(JobLogRow(job_id=job_id, seq=seq, at=line.at, level=line.level, text=text))
    session.flush()
    session.execute(
        delete(JobLogRow).where(
            JobLogRow.job_id == job_id, JobLogRow.seq > FIRST_LINES, JobLogRow.seq <= newest - LAST_LINES
        )
    )
    return True


def lines_after(session: Session, job_id: str, seq: int, limit: int) -> Sequence[JobLogRow]:
    """The stored lines of a job of this project after number `seq`, in order, at most `limit`."""
    return session.scalars(
        select(JobLogRow)
        .join(JobRow, JobRow.id == JobLogRow.job_id)
        .where(JobLogRow.job_id == job_id, JobLogRow.seq > seq, JobRow.project_id == project_of(session))
        .order_by(JobLogRow.seq)
        .limit(limit)
    ).all()


def _left_out(seq: int, newest: int) -> bool:
    return FIRST_LINES < seq <= newest - LAST_LINES

"""What was said about a job, for those who may see it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from app.services.jobs import get
from app.store.engine import Sessions
from app.store.job_logs import lines_after
from app.store.tables import JobLogRow


@dataclass(frozen=True, slots=True)
class ShownLine:
    """A line of a job's log, numbered from 1. A line for those that are not kept has the number of the last of them."""

    seq: int
    at: datetime
    level: str
    text: str


def job_log(sessions: Sessions, job_id: str, after: int, limit: int) -> list[ShownLine]:
    """The lines of the job after number `after`, at most `limit` of those that are kept.

    Raises:
        AppError: `not_found`.
    """
    get(sessions, job_id)
    with sessions.read() as session:
        return list(_with_gaps(lines_after(session, job_id, after, limit), after))


def _with_gaps(rows: Sequence[JobLogRow], after: int) -> Iterator[ShownLine]:
    """The rows, and a line for every run of numbers that is missing between them."""
    expected = after + 1
    for row in rows:
        missing = row.seq - expected
        if missing > 0:
            yield ShownLine(row.seq - 1, row.at, "info", f"… {missing} lines left out")
        yield ShownLine(row.seq, row.at, row.level, row.text)
        expected = row.seq + 1

"""What a project is told of itself: its name, what it takes, who did what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from app.lifecycle.states import JobState
from app.services.cursors import SKIPPED, from_cursor, to_cursor
from app.store import access, audit
from app.store import usage as taken
from app.store.engine import Sessions, project_of
from app.store.tables import AuditRow


@dataclass(frozen=True, slots=True)
class Taken:
    """What a project takes: bytes of contents, and jobs by state."""

    bytes_stored: int
    jobs: dict[JobState, int]


def project_name(sessions: Sessions) -> str:
    """The name of the project of `sessions`."""
    with sessions.read() as session:
        project = access.find_project(session, project_of(session))
    if project is None:
        raise LookupError(f"the project {sessions.project_id} is gone")
    return project.name


def usage(sessions: Sessions) -> Taken:
    """What the project takes now."""
    with sessions.read() as session:
        counted = taken.jobs_by_state(session)
        return Taken(taken.bytes_stored(session), {state: counted.get(state, 0) for state in JobState})


def audit_log(sessions: Sessions, limit: int, cursor: str | None) -> tuple[Sequence[AuditRow], str | None]:
    """Entries of the audit log, newest first, and the cursor of the next page; None when there are no more.

    A cursor is a time, and how many entries of that time came before. The numbers of the rows would tell how much
    happens in other projects.

    Raises:
        AppError: `request_invalid` for a cursor that is none.
    """
    after = from_cursor(cursor, SKIPPED)
    before, skipped = (None, 0) if after is None else (after[0], int(after[1]))
    with sessions.read() as session:
        rows = audit.list_entries(session, limit=limit + 1, until=before, skipped=skipped)
    page = rows[:limit]
    if len(rows) <= limit:
        return page, None
    last = page[-1].at
    same = sum(row.at == last for row in page) + (skipped if last == before else 0)
    return page, to_cursor(last, str(same))

"""Projects: made with their first key, and given quotas of their own."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping, Sequence

from app.errors import AppError
from app.store import access
from app.store.audit import record
from app.store.engine import Sessions, clock
from app.store.tables import ProjectRow

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

LIMITS = {
    "max_bytes": 0,
    "max_queued": 0,
    "max_running": 1,
    "max_samples": 1,
    "max_requests_per_minute": 1,
    "keep_days": 1,
}
"""What may be set for a project, each with its lowest value; None: as the settings say."""


def ensure_project(sessions: Sessions, name: str) -> ProjectRow:
    """The project called `name`, made if there is none.

    Raises:
        AppError: `request_invalid` for a name that is not 1 to 64 letters, digits, dots, dashes and underscores.
    """
    if not _NAME.fullmatch(name):
        raise AppError(
            "request_invalid",
            "the name of a project has 1 to 64 letters, digits, dots, dashes and underscores, and begins with a letter "
            f"or digit, got {name[:100]!r}",
        )
    with sessions.begin() as session:
        return access.put_project(session, uuid.uuid4().hex, name, clock(session))


def find_project(sessions: Sessions, name: str) -> ProjectRow:
    """The project called `name`.

    Raises:
        AppError: `not_found`.
    """
    with sessions.read() as session:
        project = access.find_project_by_name(session, name)
    if project is None:
        raise AppError("not_found", f"there is no project {name[:100]!r}; `bitbudget projects list` lists them")
    return project


def list_projects(sessions: Sessions) -> Sequence[ProjectRow]:
    """All projects of the installation, by name."""
    with sessions.read() as session:
        return access.list_projects(session)


def set_limits(sessions: Sessions, name: str, limits: Mapping[str, int | None]) -> ProjectRow:
    """Change quotas and retention of a project; what `limits` does not name stays as it is.

    Raises:
        AppError: `not_found`; `request_invalid` for a value below its range.
    """
    for limit, value in limits.items():
        if value is not None and not LIMITS[limit] <= value < 2**31 * (2**31 if limit == "max_bytes" else 1):
            raise AppError("request_invalid", f"{limit} must be {LIMITS[limit]} or more, and a number, got {value}")
    project = find_project(sessions, name)
    with sessions.of(project.id).begin() as session:
        changed = access.change_project(session, limits)
        record(session, "project.set", "/v1/project", limits)
    return changed

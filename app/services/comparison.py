"""Jobs side by side: what was asked differently, what came of it, and layer by layer where the plans differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.errors import AppError
from app.services import jobs
from app.services.results import read_result
from app.store.engine import Sessions
from app.store.tables import JobRow

MOST_JOBS = 6
_APART = ("job_not_finished", "artifact_missing")


@dataclass(frozen=True, slots=True)
class Compared:
    """A job and its plan; None: it has none."""

    row: JobRow
    plan: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class Line:
    """What the jobs have at one place, in their order; None: nothing."""

    name: str
    values: Sequence[Any]
    differs: bool


def compare(sessions: Sessions, job_ids: Sequence[str]) -> list[Compared]:
    """These jobs with their plans.

    Raises:
        AppError: `request_invalid` unless there are 2 to `MOST_JOBS` different ones; `not_found`.
    """
    wanted = list(dict.fromkeys(job_ids))
    if not 2 <= len(wanted) <= MOST_JOBS:
        raise AppError(
            "request_invalid",
            f"2 to {MOST_JOBS} different jobs can be compared, got {len(wanted)}; tick them in the list of jobs",
        )
    return [Compared(jobs.get(sessions, job_id), _document(sessions, job_id, "plan")) for job_id in wanted]


def request_differences(compared: Sequence[Compared]) -> list[Line]:
    """The fields of the requests that are not the same in all of them, by their paths."""
    requests = [_flat(job.row.request) for job in compared]
    names = list(dict.fromkeys(name for request in requests for name in request))
    lines = [_line(name, [request.get(name) for request in requests]) for name in names]
    return [line for line in lines if line.differs]


def layers(compared: Sequence[Compared]) -> list[Line]:
    """Every layer that any of the plans has, in the order of the first plan that has it; its rows in the plans."""
    plans = [{row["name"]: row for row in (job.plan or {}).get("layers", ())} for job in compared]
    names = list(dict.fromkeys(name for plan in plans for name in plan))
    lines = []
    for name in names:
        rows = [plan.get(name) for plan in plans]
        given = [(row["format"], row.get("input_bits")) for row in rows if row is not None]
        lines.append(Line(name, rows, len(set(given)) > 1))
    return lines


def frontiers(sessions: Sessions, compared: Sequence[Compared]) -> dict[str, Any] | None:
    """What the chart `comparison` draws: names and frontiers of the jobs; None where no job searched for its plan."""
    frontiers = [_document(sessions, job.row.id, "frontier") for job in compared]
    if not any(frontiers):
        return None
    named = [(job.row.name or job.row.id[:12], frontier) for job, frontier in zip(compared, frontiers, strict=True)]
    return {"jobs": [{"name": name, "frontier": frontier} for name, frontier in named]}


def _document(sessions: Sessions, job_id: str, kind: str) -> Mapping[str, Any] | None:
    try:
        return read_result(sessions, job_id, kind)
    except AppError as error:
        if error.code in _APART:
            return None
        raise


def _line(name: str, values: Sequence[Any]) -> Line:
    return Line(name, values, any(value != values[0] for value in values))


def _flat(members: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Members of members under their paths, such as `budget.max_drop`; of an applied plan only that there is one."""
    flat: dict[str, Any] = {}
    for name, value in members.items():
        path = f"{prefix}{name}"
        if path == "plan":
            flat[path] = None if value is None else "given"
        elif isinstance(value, Mapping):
            flat |= _flat(value, f"{path}.")
        else:
            flat[path] = value
    return flat

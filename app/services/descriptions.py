"""What was recognised in an uploaded model or dataset. A worker reads the file, never this process."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from app.errors import problem
from app.lifecycle.messages import Wake
from app.services.uploads import known_id, unknown_upload
from app.store import descriptions
from app.store.engine import Sessions, clock
from app.store.tables import DescriptionRow
from app.store.uploads import use_upload

DESCRIPTION_VERSION = 1
"""Raised when descriptions say more than before, so that older ones are made anew."""
MADE_ANEW_AFTER = timedelta(minutes=10)
PASSING = frozenset({"time_limit", "worker_lost"})
"""Why there was no description, where that may have been the machine: it is made anew for who asks later."""


def describe(sessions: Sessions, wake: Wake, kind: str, upload_id: str) -> dict[str, Any]:
    """The description of a model or dataset (`kind`), with its `state`: `ready`, `pending` or `failed`.

    Who asks first has a worker woken to make it; who asks again meanwhile makes no second. One that failed for what
    may have been the machine is made anew for who asks `MADE_ANEW_AFTER` after it was asked for.

    Raises:
        AppError: `not_found`.
    """
    with sessions.read() as session:
        row = descriptions.find(session, kind, known_id(kind, upload_id))
        outdated = row is None or _outdated(row, clock(session))
    asked = False
    if row is None or outdated:
        with sessions.begin() as session:
            now = clock(session)
            if not use_upload(session, kind, upload_id, now):
                raise unknown_upload(kind, upload_id)
            row, asked = descriptions.ask(session, kind, upload_id, DESCRIPTION_VERSION, now, instead_of=row)
    if asked:
        wake()
    if row.state == "ready":
        return {"state": row.state, **(row.document or {})}
    if row.state == "failed":
        about = problem(row.problem_code or "internal", row.problem_detail or "", instance=f"/v1/{kind}s/{upload_id}")
        return {"state": row.state, "problem": about}
    return {"state": row.state}


def _outdated(row: DescriptionRow, now: datetime) -> bool:
    passed = row.problem_code in PASSING and row.asked_at < now - MADE_ANEW_AFTER
    return row.version < DESCRIPTION_VERSION or passed

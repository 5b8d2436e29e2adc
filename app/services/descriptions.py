"""What was recognised in an uploaded model or dataset. A worker reads the file, never this process."""

from __future__ import annotations

from typing import Any

from app.errors import problem
from app.lifecycle.messages import Wake
from app.services.sample_match import match
from app.services.uploads import known_id, unknown_upload
from app.store import descriptions
from app.store.engine import Sessions, clock
from app.store.uploads import use_upload

__all__ = ["DESCRIPTION_VERSION", "describe", "describe_dataset", "describe_model", "match"]

DESCRIPTION_VERSION = 1
"""Raised when descriptions say more than before, so that older ones are made anew."""


def describe(sessions: Sessions, wake: Wake, kind: str, upload_id: str) -> dict[str, Any]:
    """The description of a model or dataset (`kind`), with its `state`: `ready`, `pending` or `failed`.

    Who asks first has a worker woken to make it; who asks again meanwhile makes no second.

    Raises:
        AppError: `not_found`.
    """
    with sessions.read() as session:
        row = descriptions.find(session, kind, known_id(kind, upload_id))
    asked = False
    if row is None or row.version < DESCRIPTION_VERSION:
        with sessions.begin() as session:
            now = clock(session)
            if not use_upload(session, kind, upload_id, now):
                raise unknown_upload(kind, upload_id)
            row, asked = descriptions.ask(session, kind, upload_id, DESCRIPTION_VERSION, now)
    if asked:
        wake()
    if row.state == "ready":
        return {"state": row.state, **(row.document or {})}
    if row.state == "failed":
        about = problem(row.problem_code or "internal", row.problem_detail or "", instance=f"/v1/{kind}s/{upload_id}")
        return {"state": row.state, "problem": about}
    return {"state": row.state}


def describe_model(sessions: Sessions, wake: Wake, model_id: str) -> dict[str, Any]:
    """`describe` of a model."""
    return describe(sessions, wake, "model", model_id)


def describe_dataset(sessions: Sessions, wake: Wake, dataset_id: str) -> dict[str, Any]:
    """`describe` of samples."""
    return describe(sessions, wake, "dataset", dataset_id)

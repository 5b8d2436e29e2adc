"""Bodies that are stored: no larger than what the project has room for, before and while they are received."""

from __future__ import annotations

from fastapi import Request
from fastapi.concurrency import run_in_threadpool

from app.access.quotas import no_room, room
from app.api.receiving import counting
from app.api.state import State


async def within_room(request: Request, service: State) -> Request:
    """The request with a body that may be stored whole.

    What comes at the same time is counted when it is stored: `app.access.quotas.admit_bytes`.

    Raises:
        AppError: `quota_exceeded`, here or while the body is read.
    """
    most, left = service.caller.quotas.bytes, await run_in_threadpool(room, service.sessions)
    if most is None or left is None:
        return request
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > left:
        raise no_room(most, left)
    return Request(request.scope, counting(request.receive, left, lambda: no_room(most, left)))

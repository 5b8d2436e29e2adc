"""Workers say that they are alive; readiness and metrics count them."""

from __future__ import annotations

from app.store import workers
from app.store.engine import Sessions, clock


def seen(
    sessions: Sessions,
    name: str,
    *,
    job_id: str | None = None,
    progressed: bool = True,
    processor: str | None = None,
) -> None:
    """The worker `name` (1 to 255 characters) is alive. Call every `heartbeat_seconds`, busy or not.

    Args:
        job_id: what it works on or helps with.
        progressed: whether it does what it is there for: its job gets on, or nothing waits that it could claim.
        processor: the kind of its processor.
    """
    with sessions.begin() as session:
        now = clock(session)
        workers.put_worker(session, name, now, job_id=job_id, progressed=progressed, processor=processor)


def gone(sessions: Sessions, name: str) -> None:
    """The worker `name` stops in good order."""
    with sessions.begin() as session:
        workers.remove_worker(session, name)

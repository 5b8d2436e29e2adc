"""Workers say that they are alive; readiness and metrics count them."""

from __future__ import annotations

from app.store import workers
from app.store.engine import Sessions, clock


def seen(sessions: Sessions, name: str) -> None:
    """The worker `name` (1 to 255 characters) is alive. Call every `heartbeat_seconds`, busy or not."""
    with sessions.begin() as session:
        workers.put_worker(session, name, clock(session))


def gone(sessions: Sessions, name: str) -> None:
    """The worker `name` stops in good order."""
    with sessions.begin() as session:
        workers.remove_worker(session, name)

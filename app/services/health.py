"""How the service is: the figures behind readiness and metrics."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from app.store.engine import Sessions, clock
from app.store.jobs import count_by_state, oldest_queued
from app.store.workers import count_workers
from app.supervisor import host_prefix

WORKER_SEEN_WITHIN = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class Condition:
    """What the database says about the service."""

    workers: int
    jobs_by_state: dict[str, int]
    oldest_queued_seconds: float | None
    """The one figure that shows a queue that stands still, whatever the reason; None: nothing waits."""


def workers_here(sessions: Sessions) -> int:
    """Workers of this host that were seen lately. Raises `sqlalchemy.exc.SQLAlchemyError` as `condition`."""
    with sessions.read() as session:
        return count_workers(session, clock(session) - WORKER_SEEN_WITHIN, host_prefix())


def condition(sessions: Sessions) -> Condition:
    """Ask the database. Raises `sqlalchemy.exc.OperationalError` when it does not answer."""
    with sessions.read() as session:
        now = clock(session)
        oldest = oldest_queued(session)
        return Condition(
            workers=count_workers(session, now - WORKER_SEEN_WITHIN),
            jobs_by_state=count_by_state(session),
            oldest_queued_seconds=None if oldest is None else max(0.0, (now - oldest).total_seconds()),
        )

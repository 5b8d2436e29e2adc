"""How the service is: the figures behind readiness and metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from app.store import figures
from app.store.engine import Sessions, clock
from app.store.figures import Waiting
from app.store.jobs import oldest_queued
from app.store.stage_seconds import stage_seconds
from app.store.tables import StageSecondsRow
from app.store.workers import count_progressing, count_workers
from app.supervisor import host_prefix

WORKER_SEEN_WITHIN = timedelta(minutes=1)
PROGRESS_WITHIN = timedelta(minutes=1)
"""A queue that is older, while no worker got on with anything for as long, stands still."""


@dataclass(frozen=True, slots=True)
class Condition:
    """What the database says about workers and queue."""

    workers: int
    """Workers that were seen within `WORKER_SEEN_WITHIN`."""
    progressing: int
    """Workers that claimed, got on, or found nothing to do within `PROGRESS_WITHIN`."""
    oldest_queued_seconds: float | None
    """The one figure that shows a queue that stands still, whatever the reason; None: nothing waits."""

    @property
    def stands_still(self) -> bool:
        """Whether jobs wait and nobody gets on, so that a new job would wait, too."""
        waited = self.oldest_queued_seconds
        return waited is not None and waited > PROGRESS_WITHIN.total_seconds() and self.progressing == 0


@dataclass(frozen=True, slots=True)
class Figures:
    """What a scrape tells, all of one moment."""

    condition: Condition
    busy: int
    """Workers with a job."""
    jobs_by_state: Mapping[str, int]
    failed_by_code: Mapping[str, int]
    waiting: Sequence[Waiting]
    stored_bytes: Mapping[str, int]
    """By the name of the project."""
    deliveries: Mapping[str, int]
    """Messages to webhooks that were not taken, by state."""
    stages: Mapping[str, Sequence[StageSecondsRow]]
    now: datetime


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
            progressing=count_progressing(session, now - PROGRESS_WITHIN),
            oldest_queued_seconds=None if oldest is None else max(0.0, (now - oldest).total_seconds()),
        )


def read_figures(sessions: Sessions) -> Figures:
    """Ask the database for all that a scrape tells. Raises as `condition`."""
    current = condition(sessions)
    with sessions.read() as session:
        now = clock(session)
        return Figures(
            condition=current,
            busy=figures.count_busy(session, now - WORKER_SEEN_WITHIN),
            jobs_by_state=figures.count_by_state(session),
            failed_by_code=figures.count_failed_by_code(session),
            waiting=figures.waiting_by_project(session),
            stored_bytes=figures.stored_bytes_by_project(session),
            deliveries=figures.count_deliveries(session),
            stages=stage_seconds(session),
            now=now,
        )

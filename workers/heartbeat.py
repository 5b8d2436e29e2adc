"""Keeps the lease of a running job, and learns when the job has to stop.

The thread here runs in the worker, which never parses or runs a model: nothing that a model does can hold it up.
"""

from __future__ import annotations

import logging
import threading
import time
from contextlib import suppress
from datetime import timedelta
from enum import StrEnum

from sqlalchemy.exc import SQLAlchemyError

from app.lifecycle import claims
from app.lifecycle.states import Claim, Progress
from app.lifecycle.states import Heartbeat as Answer
from app.store.engine import Sessions
from workers.failures import StageTimeLimit

logger = logging.getLogger(__name__)

TICK_SECONDS = 0.5
"""How often progress is written when it changes; heartbeats without news come every `interval`."""

BETWEEN_STAGES = timedelta(minutes=10)
"""For what belongs to no stage: reading the uploads, the report at the end."""


class Interruption(StrEnum):
    """Why a job stops before its end."""

    CANCELLED = "cancelled"
    LOST = "lost"
    """The lease is gone: write nothing, somebody else has the job or it is over."""
    STOPPING = "stopping"
    """The worker is asked to stop: give the job back."""


class Interrupted(Exception):
    """Raised by `Heartbeat.check`."""

    def __init__(self, reason: Interruption) -> None:
        super().__init__(reason)
        self.reason = reason


class Heartbeat:
    """The lease of `claim`, from `with` to the end of the block.

    Args:
        interval: between two heartbeats without news, at most half of `lease`.
    """

    def __init__(self, sessions: Sessions, claim: Claim, *, lease: timedelta, interval: timedelta) -> None:
        self._sessions = sessions
        self._claim = claim
        self._lease = lease
        self._interval = interval.total_seconds()
        self._interruption: Interruption | None = None
        self._progress: Progress | None = None
        self._beating = threading.Lock()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self.leave_stage("start")

    def __enter__(self) -> Heartbeat:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._thread.join()

    def enter_stage(self, stage: str, limit: timedelta) -> None:
        """The stage begins now and may take `limit`."""
        self._limit = (StageTimeLimit(stage, limit), time.monotonic() + limit.total_seconds())

    def leave_stage(self, stage: str) -> None:
        """The stage is over; what was reported last is written, however short the stage was."""
        self.enter_stage(stage, BETWEEN_STAGES)
        if self._progress is not None:
            with suppress(SQLAlchemyError):  # it is there to be seen, and what comes next asks the database again
                self._beat()

    def report(self, progress: Progress) -> None:
        """Write this progress with one of the next heartbeats."""
        self._progress = progress

    def interrupt(self, reason: Interruption) -> None:
        """Make the next `check` raise; the first reason counts, but a lost lease overrides."""
        if self._interruption is None or reason is Interruption.LOST:
            self._interruption = reason

    def check(self) -> None:
        """Raise if the job has to stop. Cheap: no database.

        Raises:
            Interrupted: cancelled, lost, or the worker is stopping.
            StageTimeLimit: the stage ran longer than it may.
        """
        if self._interruption is not None:
            raise Interrupted(self._interruption)
        error, end = self._limit
        if time.monotonic() > end:
            raise error

    def settle(self, reason: Interruption) -> None:
        """Write down how a job ends that stopped for this reason."""
        if reason is Interruption.CANCELLED:
            claims.cancelled(self._sessions, self._claim)
        elif reason is Interruption.STOPPING:
            claims.release(self._sessions, self._claim)

    def _run(self) -> None:
        written: Progress | None = None
        beat_at = time.monotonic() + self._interval
        while not self._closing.wait(min(TICK_SECONDS, self._interval)):
            if self._progress is not written or time.monotonic() >= beat_at:
                try:
                    written = self._beat()
                except SQLAlchemyError as error:
                    # The job goes on: a database that restarts is back before the lease ends, or the fence holds.
                    logger.warning("job %s: no heartbeat, the database does not answer: %s", self._claim.job_id, error)
                except Exception:
                    # Without a heartbeat nobody hears of a cancellation, or of a lease that is lost.
                    logger.exception("job %s: no heartbeat is possible; given up", self._claim.job_id)
                    self.interrupt(Interruption.LOST)
                    return
                else:
                    beat_at = time.monotonic() + self._interval

    def _beat(self) -> Progress | None:
        """Extend the lease and write the last progress, which is given."""
        with self._beating:  # both threads do: an older progress must not be written over a newer one
            progress = self._progress
            answer = claims.heartbeat(self._sessions, self._claim, self._lease, progress)
        if answer is Answer.LOST:
            self.interrupt(Interruption.LOST)
        elif answer is Answer.CANCEL_REQUESTED:
            self.interrupt(Interruption.CANCELLED)
        return progress

"""Keeps the lease of a running job, and learns when the job has to stop.

The job's own thread asks `check`; if it does not ask in time, because it is inside a long native call, this thread
ends the job in the database and then the process.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from enum import StrEnum

from sqlalchemy.exc import SQLAlchemyError

from app.lifecycle import claims
from app.lifecycle.states import Claim, Progress
from app.lifecycle.states import Heartbeat as Answer
from app.store.engine import Sessions
from workers.failures import StageTimeLimit, failure

logger = logging.getLogger(__name__)

TICK_SECONDS = 0.5
"""How often progress is written when it changes; heartbeats without news come every `interval`."""


class Interruption(StrEnum):
    """Why a job stops before its end."""

    CANCELLED = "cancelled"
    LOST = "lost"
    """The lease is gone: write nothing, somebody else has the job or it is over."""
    STOPPING = "stopping"
    """The worker is asked to stop: give the job back."""


class Interrupted(Exception):
    """Raised out of a stage by `Heartbeat.check`."""

    def __init__(self, reason: Interruption) -> None:
        super().__init__(reason)
        self.reason = reason


class Heartbeat:
    """The lease of `claim`, from `with` to the end of the block.

    Args:
        interval: between two heartbeats without news, at most half of `lease`.
        grace: how long the job may go on after it has to stop, before `end_process` is called.
        end_process: ends this process without a word; `os._exit` but in tests.
    """

    def __init__(
        self,
        sessions: Sessions,
        claim: Claim,
        *,
        lease: timedelta,
        interval: timedelta,
        grace: timedelta,
        end_process: Callable[[], None],
    ) -> None:
        self._sessions = sessions
        self._claim = claim
        self._lease = lease
        self._interval = interval.total_seconds()
        self._grace = grace.total_seconds()
        self._end_process = end_process
        self._interruption: Interruption | None = None
        self._interrupted_at = 0.0
        self._limit: tuple[StageTimeLimit, float] | None = None
        self._progress: Progress | None = None
        self._beating = threading.Lock()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def __enter__(self) -> Heartbeat:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._thread.join()

    def enter_stage(self, stage: str, limit: timedelta) -> None:
        """The stage begins now and may take `limit`."""
        self._limit = (StageTimeLimit(stage, limit), time.monotonic() + limit.total_seconds())

    def leave_stage(self) -> None:
        """No stage runs, and no limit counts; what was reported last is written, however short the stage was."""
        self._limit = None
        with suppress(SQLAlchemyError):  # it is there to be seen, and what comes next asks the database again
            self._beat()

    def report(self, progress: Progress) -> None:
        """Write this progress with one of the next heartbeats."""
        self._progress = progress

    def interrupt(self, reason: Interruption) -> None:
        """Make the next `check` raise; the first reason counts, but a lost lease overrides."""
        if self._interruption is None:
            self._interrupted_at = time.monotonic()
            self._interruption = reason
        elif reason is Interruption.LOST:
            self._interruption = reason

    def check(self) -> None:
        """Raise if the job has to stop. Cheap: no database.

        Raises:
            Interrupted: cancelled, lost, or the worker is stopping.
            StageTimeLimit: the stage ran longer than it may.
        """
        if self._interruption is not None:
            raise Interrupted(self._interruption)
        if self._limit is not None and time.monotonic() > self._limit[1]:
            raise self._limit[0]

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
                else:
                    beat_at = time.monotonic() + self._interval
            if self._overdue():
                self._end()

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

    def _overdue(self) -> bool:
        now = time.monotonic()
        if self._interruption is not None:
            return now > self._interrupted_at + self._grace
        return self._limit is not None and now > self._limit[1] + self._grace

    def _end(self) -> None:
        """End the job and the process, because the job's thread does not come back."""
        if self._closing.is_set():
            return
        job_id = self._claim.job_id
        try:
            if self._interruption is not None:
                logger.warning("job %s: does not stop (%s), ending its process", job_id, self._interruption)
                self.settle(self._interruption)
            elif self._limit is not None:
                error, _ = self._limit
                logger.warning("job %s: stage %s runs past its limit, ending its process", job_id, error.stage)
                over = failure(error, error.stage, None)
                claims.fail(self._sessions, self._claim, over.code, over.detail)
        except SQLAlchemyError:
            logger.exception("job %s: could not be ended in the database; its lease will expire", job_id)
        self._end_process()

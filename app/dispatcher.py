"""The loop that repairs the queue: expired leases, lost messages, left-overs; beside it, webhooks are served.

Any number may run at once; each step is one conditional statement, so a second dispatcher finds nothing to do.
"""

from __future__ import annotations

import logging
import threading
import time

from sqlalchemy.exc import SQLAlchemyError

from app.delivery.deliverer import Deliverer
from app.lifecycle import recovery, retention
from app.lifecycle.messages import Wake
from app.settings import Settings
from app.store.engine import Sessions
from app.store.room import give_back

logger = logging.getLogger(__name__)

CLEAN_SECONDS = 600.0


class Dispatcher:
    """Repairs the queue every `dispatch_interval_seconds` until it is stopped."""

    def __init__(self, settings: Settings, sessions: Sessions, wake: Wake) -> None:
        self._settings = settings
        self._sessions = sessions
        self._wake = wake
        self._clean_at = time.monotonic()
        self._stopping = threading.Event()
        self._deliverer = Deliverer(settings, sessions)

    def run(self) -> None:
        """Work until `stop`; a database that is away is waited for."""
        delivering = threading.Thread(target=self._deliverer.run, name="webhooks", daemon=True)
        delivering.start()
        try:
            while not self._stopping.is_set():
                try:
                    self.step()
                except SQLAlchemyError as error:
                    logger.warning("the database does not answer: %s", error)
                except Exception:
                    # Whatever cannot be cleaned up: jobs are taken back and workers woken nevertheless.
                    logger.exception("this round of the dispatcher was not finished")
                self._stopping.wait(self._settings.dispatch_interval_seconds)
        finally:
            self._deliverer.stop()
            delivering.join()

    def stop(self) -> None:
        """Make `run` return."""
        self._stopping.set()

    def step(self) -> None:
        """One round: take jobs back from workers that are silent, wake idle workers for work, sometimes clean up.

        Raises:
            sqlalchemy.exc.SQLAlchemyError: the database does not answer.
        """
        reaped = recovery.reap(self._sessions, self._settings.max_attempts)
        for job_id in reaped.requeued:
            logger.warning("job %s: its worker is silent, it is queued again", job_id)
        for job_id in reaped.failed:
            logger.error("job %s: lost %d workers and failed", job_id, self._settings.max_attempts)
        for _ in range(recovery.workers_to_wake(self._sessions)):
            self._wake()
        if time.monotonic() >= self._clean_at:
            # What is left of a large piece of work waits for the next rounds: leases expire meanwhile.
            self._clean_at = time.monotonic() + (0.0 if self._keep_house() else CLEAN_SECONDS)

    def _keep_house(self) -> bool:
        """Remove some of what is left over or kept no longer; whether there may be more."""
        removed = recovery.clean(self._sessions, self._settings) + self._deliverer.clean()
        if removed:
            logger.info("removed %d left-overs", removed)
        expired = retention.expire(self._sessions, self._settings.keep_days)
        if expired.total:
            logger.info(
                "removed what is kept no longer: %d jobs, %d uploads, %d results of stages",
                expired.jobs,
                expired.uploads,
                expired.results,
            )
        free = give_back(self._sessions)
        return free or expired.more or removed >= recovery.CONTENTS_AT_ONCE

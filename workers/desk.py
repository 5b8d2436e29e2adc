"""Where a worker takes what is to be done: the job whose turn it is, or help with a job of another worker."""

from __future__ import annotations

import logging
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

from app.lifecycle import claims, recovery
from app.lifecycle.messages import Wake
from app.lifecycle.states import Claim
from app.settings import Settings
from app.store import queue
from app.store.engine import Sessions
from app.supervisor import owner_name, owner_prefix
from workers.attempt import Attempt, End
from workers.child_process import Child, ChildGone
from workers.describer import Describer
from workers.heartbeat import Heartbeat, Interruption
from workers.help import Help
from workers.record import AttemptRecord
from workers.uploads import Uploads

logger = logging.getLogger(__name__)

CALLS_FOR_HELP = 2
REST_SECONDS = 30.0

STARTS = 3
"""How often a process that ends before it is ready is started, at the start of the worker."""


class Desk:
    """Works in the worker's first thread; other threads may ask how it is, and ask it to stop.

    Args:
        name: of this worker.
        pipeline: module with the table of stages that the children run.
        wake: tells another worker that there is work.
        processor: the kind of processor here: a job is helped with by processors of the same kind only, because sums
            are not rounded alike everywhere.
    """

    def __init__(
        self, settings: Settings, sessions: Sessions, name: str, pipeline: str, wake: Wake, processor: str
    ) -> None:
        self._settings = settings
        self._sessions = sessions
        self._name = name
        self._pipeline = pipeline
        self._wake = wake
        self.processor = processor
        self._uploads = Uploads(settings.tmp_dir)
        self._describer = Describer(settings, sessions, owner_prefix(name) + "descriptions")
        self._child: Child | None = None
        self._running: Heartbeat | None = None
        self._stopping = threading.Event()
        self._number = 0
        self._at_work = False
        self._rests_until = 0.0
        self.job_id: str | None = None
        """The job that is worked on, or helped with."""
        self.turned_at = time.monotonic()
        """When the first thread was last seen to go on."""

    @property
    def busy(self) -> bool:
        """Whether it looks for work, or has some."""
        return self._at_work

    @property
    def rests(self) -> bool:
        """Whether it takes nothing for a while, because it could not work."""
        return time.monotonic() < self._rests_until

    def open(self) -> None:
        """Have a child ready before there is a job for it: loading torch takes seconds.

        Raises:
            ChildGone: no child can be had here, also not when it is tried again.
        """
        for left in reversed(range(STARTS)):
            self._renew()
            try:
                if self._child is not None:
                    self._child.wait_until_ready(self._turned)
                self._describer.start()
                return
            except ChildGone as error:
                if left == 0:
                    raise
                logger.warning("the process for jobs %s, before it had one; it is started again", error)

    def work(self) -> int:
        """Work until there is nothing to do; how many jobs were worked on or helped with.

        Raises:
            sqlalchemy.exc.SQLAlchemyError: the database does not answer.
        """
        self._turned()
        self._at_work = True
        self._describer.wake()
        try:
            return self._work()
        finally:
            self._at_work = False

    def _work(self) -> int:
        count, helped = 0, set[str]()
        while not self._stopping.is_set() and time.monotonic() >= self._rests_until:
            self._turned()
            owner = self._new_owner()
            if not self._can_start():
                break
            claim = claims.claim_next(self._sessions, owner, self._settings.lease, self._settings.quota_running)
            if claim is not None:
                self._run(claim)
            else:
                with self._sessions.read() as session:
                    wanted = queue.find_help_wanted(session, self.processor, helped)
                if wanted is None:
                    break
                helped.add(wanted.job_id)
                self._help(wanted, owner)
            count += 1
        return count

    def stop(self) -> None:
        """Take nothing more, and give back what is worked on. Called from another thread, or a signal's handler."""
        self._stopping.set()
        running = self._running
        if running is not None:
            running.interrupt(Interruption.STOPPING)

    def close(self) -> None:
        """End the child, and remove what was fetched. The desk must not be at work."""
        self._describer.close()
        self._end_child()
        self._uploads.close()

    def _end_child(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            child.kill()

    def _run(self, claim: Claim) -> None:
        settings, sessions = self._settings, self._sessions.of(claim.project_id)
        heartbeat = Heartbeat(
            sessions, claim, lease=settings.lease, interval=timedelta(seconds=settings.heartbeat_seconds)
        )
        # Users are not told where things lie on this machine.
        record = AttemptRecord(sessions, claim, hidden=(settings.tmp_dir, settings.home, Path(sys.prefix)))
        with record, heartbeat:
            logger.info("job %s: attempt %d", claim.job_id, claim.attempt)
            attempt = Attempt(
                settings,
                sessions,
                claim,
                heartbeat,
                self._uploads,
                record,
                turned=self._turned,
                call_for_help=self._call_for_help,
            )
            self.job_id, self._running = claim.job_id, heartbeat
            try:
                if self._stopping.is_set():  # asked between the claim and the line above
                    heartbeat.interrupt(Interruption.STOPPING)
                end = self._attempt(attempt, claim.project_id)
            finally:
                self.job_id, self._running = None, None
            logger.info("job %s: %s", claim.job_id, end)
        if end is End.IN_TROUBLE:
            self._rest()
        elif not end.clean:
            self._renew()

    def _attempt(self, attempt: Attempt, project_id: str) -> End:
        try:
            child = self._child_for(project_id)
        except OSError as error:
            return attempt.in_trouble(error)
        return attempt.run(child)

    def _help(self, wanted: queue.Turn, owner: str) -> None:
        sessions = self._sessions.of(wanted.project_id)
        self.job_id = wanted.job_id
        good = False
        try:
            help_ = Help(
                self._settings,
                sessions,
                wanted.job_id,
                owner,
                self._uploads,
                turned=self._turned,
                stopping=self._stopping.is_set,
            )
            good = help_.give(self._child_for(wanted.project_id))
        finally:
            self.job_id = None
            if not good:
                self._renew()

    def _rest(self) -> None:
        """Take nothing for a while: a worker that cannot work must not fail every job that waits."""
        self._end_child()
        self._rests_until = time.monotonic() + REST_SECONDS

    def _can_start(self) -> bool:
        """Whether there is a process for jobs, or one can be started: asked before a job is claimed."""
        try:
            if self._child is None or not self._child.alive:
                self._renew()
        except OSError as error:
            logger.error("this worker cannot start a process for jobs: %s", error)
            self._rest()
            return False
        return True

    def _child_for(self, project_id: str) -> Child:
        if self._child is not None and not self._child.fits(project_id):
            self._end_child()
        if self._child is None:
            self._child = Child(self._settings, self._pipeline)
        self._child.project_id = project_id
        return self._child

    def _renew(self) -> None:
        """A new child, which loads what it needs while there is nothing to do."""
        self._end_child()
        if not self._stopping.is_set():
            self._child = Child(self._settings, self._pipeline)

    def _new_owner(self) -> str:
        self._number += 1
        return owner_name(self._name, self._number)

    def _turned(self) -> None:
        self.turned_at = time.monotonic()

    def _call_for_help(self) -> None:
        try:
            wanted = recovery.workers_to_wake(self._sessions)
        except SQLAlchemyError as error:
            logger.info("no worker is asked to help: %s", error)
            return
        # The dispatcher wakes the others: a broker that is away costs seconds for each message.
        for _ in range(min(wanted, CALLS_FOR_HELP)):
            self._wake()

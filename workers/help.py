"""Helping with a job that another worker leads: chunks of its long stages, as long as nothing else waits."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial

from app.errors import AppError
from app.settings import Settings
from app.store import queue
from app.store.engine import Sessions, clock
from app.store.jobs import find_job
from pipeline.events import Event
from workers.attempt import machine_of
from workers.child_process import Child, ChildGone
from workers.conversation import Conversation, Outputs, Task
from workers.limits import ChildTooLarge, MemoryWatch
from workers.patience import UNREACHABLE
from workers.spans import JobSpans
from workers.store import Shelf
from workers.uploads import Uploads

logger = logging.getLogger(__name__)

SILENT_SECONDS = 900.0
"""A helper that neither takes, stores nor reports anything for so long holds up a chunk that another could compute."""


class Leaves(Exception):
    """The help ends: the job has ended, another job waits, or the worker has to stop."""


class Help:
    """Help with the running job `job_id`. It writes nothing but results under their keys, so it needs no claim.

    Args:
        sessions: about the project of the job.
        owner: a name that no other process has; what it has taken is free again when it stops saying that it is alive.
        stopping: whether the worker has to stop.
    """

    def __init__(
        self,
        settings: Settings,
        sessions: Sessions,
        job_id: str,
        owner: str,
        uploads: Uploads,
        *,
        turned: Callable[[], None],
        stopping: Callable[[], bool],
    ) -> None:
        self._settings = settings
        self._sessions = sessions
        self._job_id = job_id
        self._owner = owner
        self._uploads = uploads
        self._turned = turned
        self._stopping = stopping
        self._look_at = 0.0
        self._heard_at = time.monotonic()

    def give(self, child: Child) -> bool:
        """Help until there is nothing more to help with; whether the child is as good as before."""
        memory = MemoryWatch(child.memory_bytes, self._settings.worker_memory_bytes)

        def check() -> None:
            self._check()
            memory.check()
            if time.monotonic() - self._heard_at > SILENT_SECONDS:
                raise Leaves

        def hear(event: Event) -> None:
            self._heard_at = time.monotonic()
            spans.event(event)

        with self._sessions.read() as session:
            job = find_job(session, self._job_id)
        if job is None:
            return True
        spans = JobSpans("help", job.trace, job_id=job.id, project_id=job.project_id)
        shelf = Shelf(
            self._sessions,
            self._owner,
            self._settings.lease,
            self._settings.tmp_dir,
            self._check,
            taken=partial(self._hear, spans.taken),
            put=partial(self._hear, spans.stored),
        )
        failed: str | None = None
        try:
            task = Task(self._job_id, job.request, machine_of(self._settings), helping=True)
            end = Conversation(child, self._sessions, self._uploads, shelf, hear, check).hold(task)
            return isinstance(end, Outputs)
        except Leaves:
            return False
        except (ChildGone, ChildTooLarge, AppError, OSError, *UNREACHABLE) as error:
            logger.info("job %s: the help for it ended: %s", self._job_id, error)
            failed = type(error).__name__
            return False
        except Exception as error:
            logger.exception("job %s: the help for it failed", self._job_id)
            failed = type(error).__name__
            return False
        finally:
            logger.info("job %s: helped with %d results", self._job_id, shelf.stored)
            spans.end(failed)
            self._free()

    def _hear(self, record: Callable[[str], None], key: str) -> None:
        self._heard_at = time.monotonic()
        record(key)

    def _check(self) -> None:
        self._turned()
        if self._stopping():
            raise Leaves
        if time.monotonic() < self._look_at:
            return
        self._look_at = time.monotonic() + self._settings.heartbeat_seconds
        with self._sessions.begin() as session:
            job = find_job(session, self._job_id)
            if (
                job is None
                or job.state != "running"
                or job.cancel_requested
                or queue.waits(session, self._settings.quota_running)
            ):
                raise Leaves
            queue.keep_chunks(session, self._owner, clock(session) + self._settings.lease)

    def _free(self) -> None:
        try:
            with self._sessions.begin() as session:
                queue.free_chunks(session, self._owner)
        except UNREACHABLE as error:
            logger.warning("job %s: what was taken is free once its lease ends: %s", self._job_id, error)

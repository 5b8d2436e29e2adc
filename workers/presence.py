"""The worker's own process: says that the worker is alive, and takes jobs back at once from a child that died."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from typing import Any

from billiard.process import active_children
from celery import signals
from celery.worker import state
from sqlalchemy.exc import SQLAlchemyError

from app.lifecycle import presence, recovery
from app.lifecycle.messages import waker
from app.settings import Settings
from app.store.engine import open_sessions
from app.supervisor import owner_name, owner_prefix

logger = logging.getLogger(__name__)

LOOK_SECONDS = 1.0


class Presence:
    """Watches over the worker `name`, which this process is, from Celery's start to its end.

    A child that is killed (by the kernel for want of memory, or by hand) leaves a lease that nobody extends. The
    worker sees its child go and does not wait for the lease: the job is queued and announced again within a second.

    Args:
        grace_seconds: how long a child may take to give its job back once the worker is asked to stop.
    """

    def __init__(self, settings: Settings, name: str, grace_seconds: float) -> None:
        self._settings = settings
        self._name = name
        self._grace = grace_seconds
        self._sessions = open_sessions(settings.database_url)
        self._wake = waker(settings)
        self._children: set[int] = set()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="presence", daemon=True)

    def connect(self) -> None:
        """Begin when Celery is ready, end when it is asked to stop or stops by itself."""
        signals.worker_ready.connect(self._start, weak=False)
        signals.worker_shutting_down.connect(self._asked_to_stop, weak=False)
        signals.worker_shutdown.connect(self._sign_off, weak=False)

    def _start(self, **_: Any) -> None:
        logger.info("worker %s is ready", self._name)
        self._thread.start()

    def _asked_to_stop(self, **_: Any) -> None:
        # Celery's own way would wait for the running job, for hours if need be, and takes five seconds with none.
        logger.info("worker %s is asked to stop", self._name)
        threading.Thread(target=self._stop, name="stop", daemon=True).start()

    def _stop(self) -> None:
        """Have the running job given back, then end. Nothing else is lost: a message not yet begun is sent again."""
        for pid in _children():
            os.kill(pid, signal.SIGTERM)
        end = time.monotonic() + self._grace + 1.0
        while _busy() and time.monotonic() < end:
            time.sleep(0.05)
        self._sign_off()
        logging.shutdown()
        os._exit(0)

    def _sign_off(self, **_: Any) -> None:
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join()
        try:
            self._take_back(owner_prefix(self._name))
            presence.gone(self._sessions, self._name)
        except SQLAlchemyError as error:
            logger.warning("worker %s could not sign off, the database does not answer: %s", self._name, error)
        logger.info("worker %s stopped", self._name)

    def _run(self) -> None:
        seen_at = float("-inf")
        while True:
            try:
                if time.monotonic() - seen_at >= self._settings.heartbeat_seconds:
                    presence.seen(self._sessions, self._name)
                    seen_at = time.monotonic()
                self._look_after_children()
            except SQLAlchemyError as error:
                logger.warning("worker %s: the database does not answer: %s", self._name, error)
            if self._closing.wait(min(LOOK_SECONDS, self._settings.heartbeat_seconds)):
                return

    def _look_after_children(self) -> None:
        children = _children()
        for pid in self._children - children:
            self._take_back(owner_name(self._name, pid))
            self._children.discard(pid)  # only now: after an error of the database it is tried again
        self._children |= children

    def _take_back(self, owner: str) -> None:
        """Queue what a child that is gone was working on."""
        reaped = recovery.reap_worker(self._sessions, owner, self._settings.max_attempts)
        for job_id in reaped.requeued:
            logger.warning("job %s lost its process and is queued again", job_id)
            self._wake()
        for job_id in reaped.failed:
            logger.error("job %s lost its process %d times and failed", job_id, self._settings.max_attempts)


def _children() -> set[int]:
    """The processes for jobs that are alive. Not every child is one: billiard has a helper that must be left alone."""
    return {child.pid for child in active_children()}


def _busy() -> bool:
    """Whether a child works on a task. Celery keeps the tasks of dead children for ten seconds; they do not count."""
    alive = _children()
    return any(request.worker_pid in alive for request in list(state.active_requests))

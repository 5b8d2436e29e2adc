"""A worker says that it is alive, and that it does what it is there for; one that does not ends itself."""

from __future__ import annotations

import logging
import os
import threading
import time
from typing import Any

from celery import signals
from sqlalchemy.exc import SQLAlchemyError

from app.lifecycle import presence, recovery
from app.lifecycle.messages import Wake, broker_answers
from app.settings import Settings
from app.store import queue
from app.store.engine import Sessions
from app.store.temporary import sweep
from app.supervisor import owner_prefix
from app.tracing import stop_tracing
from workers.desk import Desk

logger = logging.getLogger(__name__)

STOP_SECONDS = 10.0
"""How long a job may take to be given back once the worker is asked to stop."""

STUCK_SECONDS = 60.0
"""How long a worker may leave a job that waits unclaimed, or not go on with one, before it ends itself. It is then
started again, by `bitbudget serve`, by compose, or by whatever else watches it."""

STUCK = 75
"""Exit status of a worker that ends itself (EX_TEMPFAIL)."""

SWEEP_SECONDS = 600.0


class Presence:
    """Watches over the worker `name`, which this process is, from Celery's start to its end."""

    def __init__(self, settings: Settings, sessions: Sessions, name: str, desk: Desk, wake: Wake) -> None:
        self._settings = settings
        self._name = name
        self._sessions = sessions
        self._desk = desk
        self._wake = wake
        self._idle_since: float | None = None
        self._sweep_at = 0.0
        self._stopping = threading.Event()
        self._signing_off = threading.Lock()
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
        self._desk.stop()
        if self._stopping.is_set():
            return
        self._stopping.set()
        logger.info("worker %s is asked to stop", self._name)
        threading.Thread(target=self._stop, name="stop", daemon=True).start()

    def _stop(self) -> None:
        end = time.monotonic() + STOP_SECONDS
        while self._desk.busy and time.monotonic() < end:
            time.sleep(0.05)
        self._sign_off()
        stop_tracing()
        logging.shutdown()
        os._exit(0)  # the children die with this process

    def _sign_off(self, **_: Any) -> None:
        with self._signing_off:  # Celery's end, in the first thread, waits for the one that was asked for
            if not self._closing.is_set():
                self._leave()

    def _leave(self) -> None:
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join()
        try:
            reaped = recovery.reap_worker(self._sessions, owner_prefix(self._name), self._settings.max_attempts)
            for _job in reaped.requeued:
                self._wake()
            presence.gone(self._sessions, self._name)
        except SQLAlchemyError as error:
            logger.warning("worker %s could not sign off, the database does not answer: %s", self._name, error)
        if not self._desk.busy:
            self._desk.close()  # its folders too: uploads that are no longer needed here
        logger.info("worker %s stopped", self._name)

    def _run(self) -> None:
        while True:
            try:
                self._say()
            except SQLAlchemyError as error:
                logger.warning("worker %s: the database does not answer: %s", self._name, error)
            except Exception:
                logger.exception("worker %s: could not look after itself", self._name)
            if self._closing.wait(self._settings.heartbeat_seconds):
                return

    def _say(self) -> None:
        stuck = self._stuck_for()
        job_id, processor = self._desk.job_id, self._desk.processor
        presence.seen(self._sessions, self._name, job_id=job_id, progressed=stuck == 0.0, processor=processor)
        # Without a broker nobody can wake a worker up, and another one would not be woken either.
        if stuck > STUCK_SECONDS and (self._desk.busy or broker_answers(self._settings)):
            logger.critical("worker %s: does not go on for %.0f s, and ends itself", self._name, stuck)
            logging.shutdown()
            os._exit(STUCK)
        if time.monotonic() >= self._sweep_at:
            self._sweep_at = time.monotonic() + SWEEP_SECONDS
            sweep(self._settings.tmp_dir)

    def _stuck_for(self) -> float:
        """Seconds for which this worker has not done what it is there for; 0 while it does."""
        now = time.monotonic()
        if self._desk.busy:
            self._idle_since = None
            still = now - self._desk.turned_at
            return still if still > self._settings.lease_seconds else 0.0
        with self._sessions.read() as session:
            waits = queue.waits(session, self._settings.quota_running)
        if not waits:
            self._idle_since = None
            return 0.0
        # The first look at a job that came just now says nothing, and one that rests has said why.
        self._idle_since = now if self._idle_since is None or self._desk.rests else self._idle_since
        still = now - max(self._idle_since, self._desk.turned_at)
        return still if still > 2 * self._settings.dispatch_interval_seconds else 0.0

"""One job, from the claim to its end: run the stages that have no result yet, deliver, write the end down."""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import partial
from pathlib import Path

from billiard.exceptions import SoftTimeLimitExceeded

from app.errors import AppError
from app.lifecycle import claims
from app.lifecycle.states import Artifact, Claim, Outcome
from app.schemas.job_request import uploaded_as
from app.schemas.parsing import parse_stored
from app.settings import Settings
from app.store.blobs import open_blob_to_file, write_bytes
from app.store.engine import Sessions
from app.store.jobs import find_job
from app.store.temporary import work_folder
from app.store.uploads import upload_blob
from pipeline.run import run
from pipeline.stage import JobResult, Machine, Table, Upload
from workers.app import STOP_SECONDS
from workers.failures import failure
from workers.heartbeat import Heartbeat, Interrupted, Interruption
from workers.limits import thread_count
from workers.observer import Observer
from workers.patience import UNREACHABLE, patiently
from workers.store import DatabaseStore

logger = logging.getLogger(__name__)

MEDIA_TYPES = {"model": "application/octet-stream"}
"""Media types of artifacts by kind; all others are JSON."""

KILLED_BY_ITSELF = 70
"""Exit status of a process that ends itself because its job does not stop (EX_SOFTWARE)."""


def load_table(module: str) -> Table:
    """The table of stages of the module with this import path, its `TABLE`."""
    table: Table = importlib.import_module(module).TABLE
    return table


class End(StrEnum):
    """What became of a job in this process."""

    NOT_CLAIMED = "not claimed"
    FINISHED = "finished"
    FAILED = "failed"
    CANCELLED = "cancelled"
    GIVEN_BACK = "given back"
    LOST = "lost"


def _exit_process() -> None:
    os._exit(KILLED_BY_ITSELF)


@dataclass
class Worker:
    """The process that works on jobs, one after the other.

    `end_process` ends this process when a job does not stop; it is replaced in tests that have only one process.
    """

    sessions: Sessions
    settings: Settings
    owner: str
    table: Table
    grace: timedelta = timedelta(seconds=STOP_SECONDS)
    end_process: Callable[[], None] = _exit_process
    _running: Heartbeat | None = field(default=None, init=False)
    _stopping: bool = field(default=False, init=False)

    @property
    def busy(self) -> bool:
        """Whether a job is running."""
        return self._running is not None

    def stop(self) -> None:
        """Take no more jobs, and give back the one that runs. Called from another thread."""
        self._stopping = True
        running = self._running
        if running is not None:
            running.interrupt(Interruption.STOPPING)

    def run(self, job_id: str) -> End:
        """Claim the job and run it to its end; at once `NOT_CLAIMED` if it is not there to be claimed.

        Never raises for what the job does; raises `sqlalchemy.exc.SQLAlchemyError` when the database stays away, and
        the job's lease then expires.
        """
        if self._stopping:
            return End.NOT_CLAIMED
        claim = claims.claim(self.sessions, job_id, self.owner, self.settings.lease)
        if claim is None:
            logger.info("job %s is not there to be taken", job_id)
            return End.NOT_CLAIMED
        logger.info("job %s: attempt %d", job_id, claim.attempt)
        heartbeat = Heartbeat(
            self.sessions,
            claim,
            lease=self.settings.lease,
            interval=timedelta(seconds=self.settings.heartbeat_seconds),
            grace=self.grace,
            end_process=self.end_process,
        )
        with heartbeat:
            self._running = heartbeat
            try:
                if self._stopping:  # asked between the claim and the line above
                    heartbeat.interrupt(Interruption.STOPPING)
                end = _Run(self, claim, heartbeat).run()
            finally:
                self._running = None
        logger.info("job %s: %s", job_id, end)
        return end


class _Run:
    """One attempt at one job."""

    def __init__(self, worker: Worker, claim: Claim, heartbeat: Heartbeat) -> None:
        self._worker = worker
        self._sessions = worker.sessions.of(claim.project_id)
        self._claim = claim
        self._heartbeat = heartbeat
        self._observer = Observer(worker.sessions, claim, heartbeat)

    def run(self) -> End:
        try:
            return self._attempt()
        except Interrupted as interrupted:
            return self._interrupted(interrupted.reason)
        except UNREACHABLE as error:
            # Not the job's fault, and nothing can be written down: its lease ends, and it is taken up again.
            logger.error("job %s: given up, the database does not answer: %s", self._claim.job_id, error)
            return End.LOST
        except (Exception, SoftTimeLimitExceeded) as error:  # noqa: BLE001 - whatever a stage raises ends its job, not the worker
            return self._failed(error)

    def _attempt(self) -> End:
        worker, claim, settings = self._worker, self._claim, self._worker.settings
        # members that the service did not know yet when it stored the job get their defaults, retired ones go
        request = parse_stored(claim.request)
        machine = Machine(thread_count(settings.worker_threads), settings.worker_memory_bytes)
        with work_folder(settings.tmp_dir) as folder:
            result = run(
                worker.table,
                request,
                {kind: self._fetch(kind, digest, folder) for kind, digest in request.uploads.items()},
                cache=DatabaseStore(self._sessions, self._heartbeat.check),
                progress=self._observer,
                machine=machine,
                job_id=claim.job_id,
                elapsed_seconds=(datetime.now(UTC) - self._started_at()).total_seconds(),
            )
        return self._finish(result)

    def _fetch(self, kind: str, digest: str, folder: Path) -> Upload:
        def fetch() -> Path:
            with self._sessions.read() as session:
                blob = upload_blob(session, uploaded_as(kind), digest)
            if blob is None:
                raise AppError("not_found", f"The {kind} {digest} of this job was removed; upload it again.")
            return open_blob_to_file(self._sessions, blob, folder / kind)

        return Upload(patiently(fetch, self._heartbeat.check), digest)

    def _started_at(self) -> datetime:
        def read() -> datetime:
            with self._sessions.read() as session:
                job = find_job(session, self._claim.job_id)
            if job is None or job.started_at is None:
                raise LookupError(f"job {self._claim.job_id} is claimed but has not started")
            return job.started_at

        return patiently(read, self._heartbeat.check)

    def _finish(self, result: JobResult) -> End:
        sessions, check = self._sessions, self._heartbeat.check
        artifacts = {}
        for kind, data in result.artifacts.items():
            blob = patiently(partial(write_bytes, sessions, data), check)
            artifacts[kind] = Artifact(blob, MEDIA_TYPES.get(kind, "application/json"))
        outcome, summary = Outcome(result.outcome), result.summary
        finished = patiently(lambda: claims.finish(sessions, self._claim, outcome, summary, artifacts), check)
        return End.FINISHED if finished else End.LOST

    def _interrupted(self, reason: Interruption) -> End:
        if reason is Interruption.LOST:
            return End.LOST
        patiently(lambda: self._heartbeat.settle(reason), _go_on)
        return End.CANCELLED if reason is Interruption.CANCELLED else End.GIVEN_BACK

    def _failed(self, error: Exception) -> End:
        over = failure(error, self._observer.stage, self._worker.settings.worker_memory_bytes)
        job_id = self._claim.job_id
        if over.fault:
            logger.error("job %s: stage %s failed", job_id, self._observer.stage, exc_info=error)
        else:
            logger.info("job %s: stage %s ended with %s", job_id, self._observer.stage, over.code)
        failed = patiently(lambda: claims.fail(self._sessions, self._claim, over.code, over.detail), _go_on)
        return End.FAILED if failed else End.LOST


def _go_on() -> None:
    """There is nothing left to interrupt."""

"""One attempt at one job, from the claim to its end: lend it a child, deliver what comes, write the end down."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime
from enum import StrEnum

from app.errors import AppError
from app.lifecycle import claims, recovery
from app.lifecycle.states import Artifact, Claim, JobState, Outcome
from app.settings import Settings
from app.store.engine import Sessions
from app.store.jobs import find_job
from pipeline.events import Event
from pipeline.stage import Machine
from workers.child_process import Child, ChildGone
from workers.conversation import Conversation, Outputs, Task
from workers.failures import Failure, StageTimeLimit, failure
from workers.heartbeat import Heartbeat, Interrupted, Interruption
from workers.limits import ChildTooLarge, MemoryWatch, thread_count
from workers.observer import Observer
from workers.patience import UNREACHABLE, patiently
from workers.record import AttemptRecord
from workers.store import Shelf
from workers.uploads import Uploads

logger = logging.getLogger(__name__)

MEDIA_TYPES = {"model": "application/octet-stream"}
"""Media types of artifacts by kind; all others are JSON."""


class End(StrEnum):
    """What became of a job in this attempt."""

    FINISHED = "finished"
    REFUSED = "refused"
    """By the process itself, with a reason that is the upload's or the request's."""
    FAILED = "failed"
    CANCELLED = "cancelled"
    GIVEN_BACK = "given back"
    CHILD_LOST = "its process was lost"
    IN_TROUBLE = "this worker cannot work"
    LOST = "lost"

    @property
    def clean(self) -> bool:
        """Whether the child that ran the job is as good as before: it came to an end of the job by itself, in order."""
        return self in (End.FINISHED, End.REFUSED)


def machine_of(settings: Settings) -> Machine:
    """What a job may use here."""
    return Machine(thread_count(settings.worker_threads), settings.worker_memory_bytes)


class Attempt:
    """One attempt at the job of `claim`.

    Args:
        sessions: about the project of the job.
        turned: called whenever the worker sees that it goes on.
        call_for_help: called when there are chunks for other workers.
    """

    def __init__(
        self,
        settings: Settings,
        sessions: Sessions,
        claim: Claim,
        heartbeat: Heartbeat,
        uploads: Uploads,
        record: AttemptRecord,
        *,
        turned: Callable[[], None],
        call_for_help: Callable[[], None],
    ) -> None:
        self._settings = settings
        self._sessions = sessions
        self._claim = claim
        self._heartbeat = heartbeat
        self._uploads = uploads
        self._record = record
        self._turned = turned
        self._observer = Observer(sessions, claim, heartbeat, call_for_help)
        self._fruitful = False
        self._memory: MemoryWatch | None = None
        self._shelf = Shelf(
            sessions,
            claim.owner,
            settings.lease,
            settings.tmp_dir,
            self._check,
            taken=record.spans.taken,
            put=record.spans.stored,
        )

    def run(self, child: Child) -> End:
        """Run the job in `child`, of no more use unless the end is `clean`; never raises for what the job does."""
        self._memory = MemoryWatch(child.memory_bytes, self._settings.worker_memory_bytes)
        try:
            elapsed = (datetime.now(UTC) - self._started_at()).total_seconds()
            task = Task(self._claim.job_id, self._claim.request, machine_of(self._settings), elapsed)
            end = Conversation(child, self._sessions, self._uploads, self._shelf, self._observe, self._check).hold(task)
            return self._finish(end) if isinstance(end, Outputs) else self._fail(end, by_child=True)
        except Interrupted as interrupted:
            return self._interrupted(child, interrupted.reason)
        except ChildGone as error:
            try:
                self._heartbeat.check()  # whoever ends a whole group of processes means the worker
            except Interrupted as interrupted:
                return self._interrupted(child, interrupted.reason)
            except StageTimeLimit as limit:
                return self._stopped(child, limit)
            return self._child_lost(child, error)
        except UNREACHABLE as error:
            # Not the job's fault, and nothing can be written down: its lease ends, and it is taken up again.
            logger.error("job %s: given up, the database does not answer: %s", self._claim.job_id, error)
            return End.LOST
        except ChildTooLarge as error:
            logger.warning("job %s: its process is ended: %s", self._claim.job_id, error)
            return self._stopped(child, MemoryError())
        except (StageTimeLimit, AppError) as error:
            return self._stopped(child, error)
        except OSError as error:
            child.kill()
            return self.in_trouble(error)
        except Exception as error:
            logger.exception("job %s: stage %s failed", self._claim.job_id, self._observer.stage)
            return self._stopped(child, error)

    def _check(self) -> None:
        """Called wherever this worker waits or copies: it goes on, and so may the job."""
        self._turned()
        self._heartbeat.check()
        if self._memory is not None:
            self._memory.check()

    def _observe(self, event: Event) -> None:
        self._observer(event)
        self._record.event(event)
        self._note_progress()

    def _note_progress(self) -> None:
        if not self._fruitful and self._shelf.stored:
            self._fruitful = True
            patiently(lambda: claims.progressed(self._sessions, self._claim), self._check)

    def _started_at(self) -> datetime:
        def read() -> datetime:
            with self._sessions.read() as session:
                job = find_job(session, self._claim.job_id)
            if job is None or job.started_at is None:
                raise LookupError(f"job {self._claim.job_id} is claimed but has not started")
            return job.started_at

        return patiently(read, self._check)

    def _finish(self, outputs: Outputs) -> End:
        artifacts = {
            kind: Artifact(blob, MEDIA_TYPES.get(kind, "application/json")) for kind, blob in outputs.artifacts.items()
        }
        outcome = Outcome(outputs.outcome)
        finished = patiently(
            lambda: claims.finish(self._sessions, self._claim, outcome, outputs.summary, artifacts),
            self._check,
        )
        return End.FINISHED if finished else End.LOST

    def _interrupted(self, child: Child, reason: Interruption) -> End:
        child.kill()  # first: once the end is written down, nobody works on the job
        if reason is Interruption.LOST:
            return End.LOST
        patiently(lambda: self._heartbeat.settle(reason), self._turned)
        return End.CANCELLED if reason is Interruption.CANCELLED else End.GIVEN_BACK

    def _child_lost(self, child: Child, error: ChildGone) -> End:
        child.kill()
        logger.warning("job %s: its process %s in stage %s", self._claim.job_id, error, self._observer.stage)
        return self._queue_again(f"its process {error}", End.CHILD_LOST)

    def in_trouble(self, error: OSError) -> End:
        """No room on the disk, no more processes: not the job's fault, and other workers may have them."""
        logger.error("job %s: this worker cannot work: %s", self._claim.job_id, error)
        return self._queue_again("its worker has no room on its disk, or cannot start processes", End.IN_TROUBLE)

    def _queue_again(self, reason: str, end: End) -> End:
        attempts = self._settings.max_attempts
        self._record.failed("worker_lost")
        state = patiently(lambda: recovery.reap_attempt(self._sessions, self._claim, attempts, reason), self._turned)
        return End.FAILED if state == JobState.FAILED else end

    def _stopped(self, child: Child, error: Exception) -> End:
        child.kill()
        return self._fail(failure(error, self._observer.stage, self._settings.worker_memory_bytes))

    def _fail(self, over: Failure, *, by_child: bool = False) -> End:
        self._record.failed(over.code)
        job_id = self._claim.job_id
        if over.fault:
            logger.error("job %s: stage %s failed\n%s", job_id, self._observer.stage, over.text)
        else:
            logger.info("job %s: stage %s ended with %s", job_id, self._observer.stage, over.code)
        failed = patiently(lambda: claims.fail(self._sessions, self._claim, over.code, over.detail), self._turned)
        refused = by_child and not over.fault and over.code != "out_of_memory"
        return (End.REFUSED if refused else End.FAILED) if failed else End.LOST

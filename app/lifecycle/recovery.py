"""What keeps the queue going when parts of it fail: expired leases, lost messages, left-overs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, and_, case

from app.lifecycle.messages import clean_processed
from app.lifecycle.states import Claim, JobState
from app.settings import Settings
from app.store import descriptions, jobs, queue, workers
from app.store.blobs import remove_abandoned
from app.store.engine import Sessions, clock
from app.store.open_uploads import remove_expired_uploads
from app.store.tables import JobRow
from app.store.temporary import sweep

ABANDONED_AFTER = timedelta(hours=1)
CONTENTS_AT_ONCE = 50
"""So many contents go in one cleaning, and the next ones in the next: other work of its process waits for it."""
FORGET_WORKER_AFTER = timedelta(days=1)
IDLE_SEEN_WITHIN = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class Reaped:
    """Jobs that were taken back from workers that stopped saying that they are alive, by what became of them."""

    requeued: tuple[str, ...]
    failed: tuple[str, ...]
    cancelled: tuple[str, ...]


def reap(sessions: Sessions, max_attempts: int, *, now: datetime | None = None) -> Reaped:
    """Take back every job whose lease has expired: queued again, or failed once `max_attempts` workers were lost.

    That is the cap for a model that kills its worker. A job whose cancellation was requested is cancelled.
    """
    with sessions.read() as session:
        now = now or clock(session)
        expired = jobs.running_jobs(session, JobRow.lease_until < now)
    # One short transaction each, and the condition again: a heartbeat that comes just in time wins.
    return _take_back_each(sessions, expired, JobRow.lease_until < now, max_attempts, now)


def reap_worker(sessions: Sessions, owner_prefix: str, max_attempts: int) -> Reaped:
    """Take back at once every job of the workers whose name begins with `owner_prefix`, which are known to be dead.

    Counts as an attempt, as in `reap`. The empty prefix means every worker: only for who knows that none is alive.
    """
    owned = jobs.owner_begins(owner_prefix)
    with sessions.begin() as session:
        now = clock(session)
        queue.free_chunks(session, owner_prefix)
        descriptions.give_back(session, owner_prefix)
        held = jobs.running_jobs(session, owned)
    return _take_back_each(sessions, held, owned, max_attempts, now)


def _take_back_each(
    sessions: Sessions, job_ids: Sequence[str], condition: ColumnElement[bool], max_attempts: int, now: datetime
) -> Reaped:
    states = {job_id: _take_back(sessions, job_id, condition, max_attempts, now) for job_id in job_ids}
    outcomes = (JobState.QUEUED, JobState.FAILED, JobState.CANCELLED)
    return Reaped(*(tuple(job_id for job_id in job_ids if states[job_id] == outcome) for outcome in outcomes))


def _take_back(
    sessions: Sessions,
    job_id: str,
    condition: ColumnElement[bool],
    max_attempts: int,
    now: datetime,
    reason: str | None = None,
) -> str | None:
    used_up = and_(~JobRow.cancel_requested, JobRow.fruitless >= max_attempts)
    detail = (
        f"{max_attempts} processes in turn died while they had this job, and none had got on with it. The usual "
        "reasons are a file that crashes the runtime, and memory: see the log of the job, then give the workers more "
        "memory, or send a smaller model or less data."
    )
    with sessions.begin() as session:
        job = jobs.change(
            session,
            and_(JobRow.id == job_id, JobRow.state == JobState.RUNNING, condition),
            {
                "state": case((used_up, JobState.FAILED.value), else_=jobs.queued_or_cancelled()),
                "error_code": case((used_up, "worker_lost"), else_=None),
                "error_detail": case((used_up, detail), else_=None),
                "lease_until": None,
                "eta_seconds": None,
                "open_chunks": 0,
            },
        )
        if job is None:
            return None
        if job.owner:
            queue.free_chunks(session, job.owner)
        if job.state != JobState.QUEUED:
            job.finished_at = now
        event = {"state": job.state, "reason": reason or f"worker {job.owner} stopped saying that it is alive"}
        jobs.add_event(session, job, "state", event, now)
        return job.state


def reap_attempt(sessions: Sessions, claim: Claim, max_attempts: int, reason: str) -> str | None:
    """Take back the job of a claim whose process died, as in `reap`; its state now, None if the job was lost."""
    held = jobs.held_by(claim.job_id, claim.owner, claim.attempt)
    with sessions.read() as session:
        now = clock(session)
    return _take_back(sessions, claim.job_id, held, max_attempts, now, reason)


def workers_to_wake(sessions: Sessions) -> int:
    """How many messages the workers that wait should get now: no more than there is work for, or than there are idle
    workers. A worker that is busy looks into the queue itself when it is done."""
    with sessions.read() as session:
        idle = workers.count_idle(session, clock(session) - IDLE_SEEN_WITHIN)
        return min(idle, queue.demand(session)) if idle else 0


def clean(sessions: Sessions, settings: Settings, *, now: datetime | None = None) -> int:
    """Remove what nobody refers to or finished writing: contents, work folders, messages, workers long gone.

    Call it once in a while, and again at once where `CONTENTS_AT_ONCE` or more went; returns how many contents and
    folders did.
    """
    with sessions.begin() as session:
        now = now or clock(session)
        remove_expired_uploads(session, now)
        workers.remove_workers_unseen(session, now - FORGET_WORKER_AFTER)
        queue.remove_stale_chunks(session, now)
    clean_processed(settings, ABANDONED_AFTER)
    return remove_abandoned(sessions, ABANDONED_AFTER, CONTENTS_AT_ONCE) + sweep(settings.tmp_dir)

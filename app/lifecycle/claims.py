"""What a worker does to a job: claim it, keep it, end it. Everything after the claim is fenced by (owner, attempt)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import and_, case
from sqlalchemy.orm import Session

from app.errors import CATALOGUE
from app.lifecycle.states import Artifact, Claim, Estimate, Heartbeat, JobState, Outcome, Progress
from app.store import jobs, queue
from app.store.engine import Sessions, clock
from app.store.statements import storable
from app.store.tables import JobRow

DETAIL_LIMIT = 10_000


def claim_next(sessions: Sessions, owner: str, lease: timedelta, most_running: int | None = None) -> Claim | None:
    """Take the queued job whose turn it is for `owner`, until the lease ends; None if there is none to take.

    It is the turn of the project with the fewest running jobs, then of the one that has waited longest for a claim;
    within a project, of the job with the highest priority, then of the oldest.

    Args:
        owner: a name that no other process has, 1 to 255 characters.
        most_running: how many jobs of one project may run at once, where the project has no quota of its own.
    """
    if not 1 <= len(owner) <= 255:
        raise ValueError(f"the owner of a claim has 1 to 255 characters, got {len(owner)}")
    full: set[str] = set()
    while True:
        with sessions.begin() as session:
            now = clock(session)
            turn = queue.next_queued(session, most_running, full)
            if turn is None:
                return None
            # The row of the project makes claims of its jobs one after the other, so that its quota holds.
            if not queue.take_turn(session, turn.project_id, most_running, now):
                full.add(turn.project_id)
                continue
            return _claimed(session, turn.job_id, owner, lease, now)


def _claimed(session: Session, job_id: str, owner: str, lease: timedelta, now: datetime) -> Claim:
    job = jobs.change(
        session,
        and_(JobRow.id == job_id, JobRow.state == JobState.QUEUED),
        {
            "state": JobState.RUNNING,
            "owner": owner,
            "attempt": JobRow.attempt + 1,
            "fruitless": JobRow.fruitless + 1,
            "open_chunks": 0,
            "lease_until": now + lease,
        },
    )
    if job is None:
        raise LookupError(f"the job {job_id} is locked by this transaction and not queued any more")
    if job.started_at is None:
        job.started_at = now
    jobs.add_event(session, job, "state", {"state": JobState.RUNNING, "attempt": job.attempt}, now)
    return Claim(
        job.id,
        job.project_id,
        owner,
        job.attempt,
        job.model_id,
        job.dataset_id,
        job.parent_id,
        dict(job.request),
        job.trace,
    )


def heartbeat(sessions: Sessions, claim: Claim, lease: timedelta, progress: Progress | None = None) -> Heartbeat:
    """Extend the lease and store the progress; the answer LOST tells the worker that the job is no longer its own."""
    with sessions.begin() as session:
        now = clock(session)
        values: dict[str, Any] = {"lease_until": now + lease}
        if progress is not None:
            values |= {"progress": progress.fraction, "eta_seconds": progress.eta_seconds}
        job = jobs.change(session, _fence(claim), values)
        if job is None:
            return Heartbeat.LOST
        queue.keep_chunks(session, claim.owner, now + lease)
        if progress is not None and job.stage != progress.stage:
            job.stage = progress.stage
            jobs.add_event(session, job, "stage", {"stage": progress.stage}, now)
        return Heartbeat.CANCEL_REQUESTED if job.cancel_requested else Heartbeat.ALIVE


def progressed(sessions: Sessions, claim: Claim) -> bool:
    """A result of this attempt is stored, so that it was not fruitless; False: the job is lost."""
    with sessions.begin() as session:
        return jobs.change(session, _fence(claim), {"fruitless": 0}) is not None


def offer_chunks(sessions: Sessions, claim: Claim, count: int) -> bool:
    """Let other workers help with `count` chunks of the running stage; False: the job is lost."""
    with sessions.begin() as session:
        return jobs.change(session, _fence(claim), {"open_chunks": count}) is not None


def record_event(sessions: Sessions, claim: Claim, kind: str, data: Mapping[str, Any]) -> bool:
    """Add an event for those who watch the job, e.g. `("plan", {"size_bytes": …, "drop": …})`; False: the job is lost.

    Args:
        kind: 1 to 32 characters; `state`, `stage` and `estimate` are written by the other functions here.
        data: a JSON object without NaN.
    """
    if not 1 <= len(kind) <= 32:
        raise ValueError(f"the kind of an event has 1 to 32 characters, got {kind!r}")
    # Writing what is there already takes the lock of the row, and with it the fence holds until the commit.
    return _add_event(sessions, claim, kind, data, {"owner": claim.owner})


def record_estimate(sessions: Sessions, claim: Claim, estimate: Estimate) -> bool:
    """Tell those who watch what is expected, and show in the job what all of it is; False: the job is lost."""
    data = asdict(estimate)
    # writing what is there already takes the lock of the row
    shown = {"owner": claim.owner} if estimate.float_passes is None else {"estimate": data}
    return _add_event(sessions, claim, "estimate", data, shown)


def _add_event(sessions: Sessions, claim: Claim, kind: str, data: Mapping[str, Any], values: Mapping[str, Any]) -> bool:
    with sessions.begin() as session:
        job = jobs.change(session, _fence(claim), dict(values))
        if job is None:
            return False
        jobs.add_event(session, job, kind, data, clock(session))
        return True


def finish(
    sessions: Sessions,
    claim: Claim,
    outcome: Outcome,
    summary: Mapping[str, Any],
    artifacts: Mapping[str, Artifact],
) -> bool:
    """End the job with its results, all in one transaction; False: the job was lost, and nothing was written."""
    with sessions.begin() as session:
        values = {"outcome": Outcome(outcome), "summary": dict(summary), "progress": 1.0}
        job = _end(session, claim, JobState.SUCCEEDED, values)
        if job is None:
            return False
        for kind, artifact in artifacts.items():
            jobs.add_artifact(session, job.id, kind, artifact.blob, artifact.media_type)
        return True


def fail(sessions: Sessions, claim: Claim, code: str, detail: str) -> bool:
    """End the job with an error of the catalogue; False: the job was lost, and nothing was written.

    Raises:
        ValueError: the catalogue has no such code.
    """
    if code not in CATALOGUE:
        raise ValueError(f"no error has the code {code!r}; add it to the catalogue in app/errors.py")
    with sessions.begin() as session:
        values = {"error_code": code, "error_detail": storable(detail, DETAIL_LIMIT)}
        return _end(session, claim, JobState.FAILED, values) is not None


def cancelled(sessions: Sessions, claim: Claim) -> bool:
    """End the job because its cancellation was requested; False: the job was lost."""
    with sessions.begin() as session:
        return _end(session, claim, JobState.CANCELLED, {}) is not None


def release(sessions: Sessions, claim: Claim) -> bool:
    """Give the job back because the worker has to stop; does not count as an attempt. False: the job was lost."""
    with sessions.begin() as session:
        now = clock(session)
        values = {
            "state": jobs.queued_or_cancelled(),
            "fruitless": case((JobRow.fruitless > 0, JobRow.fruitless - 1), else_=0),
            "open_chunks": 0,
            "lease_until": None,
        }
        job = jobs.change(session, _fence(claim), values)
        if job is None:
            return False
        queue.free_chunks(session, claim.owner)
        if job.state == JobState.CANCELLED:
            job.finished_at = now
        jobs.add_event(session, job, "state", {"state": job.state, "reason": "its worker was stopped"}, now)
        return True


def _fence(claim: Claim) -> Any:
    return jobs.held_by(claim.job_id, claim.owner, claim.attempt)


def _end(session: Session, claim: Claim, state: JobState, values: dict[str, Any]) -> JobRow | None:
    now = clock(session)
    job = jobs.change(
        session,
        _fence(claim),
        {**values, "state": state, "open_chunks": 0, "lease_until": None, "eta_seconds": None, "finished_at": now},
    )
    if job is not None:
        queue.free_chunks(session, claim.owner)
        known = {"state": state, "outcome": job.outcome, "code": job.error_code}
        event = {name: value for name, value in known.items() if value is not None}
        jobs.add_event(session, job, "state", event, now)
    return job

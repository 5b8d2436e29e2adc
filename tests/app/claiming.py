"""Claiming a job that a test has chosen."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import update

from app.lifecycle import claims
from app.lifecycle.states import Claim
from app.store.engine import Sessions
from app.store.tables import JobRow


def claim_job(sessions: Sessions, job_id: str, owner: str, lease: timedelta) -> Claim | None:
    """Make it the turn of this job, and claim what is next; None if the job does not wait."""
    with sessions.begin() as session:
        session.execute(update(JobRow).values(priority=0))
        first = update(JobRow).where(JobRow.id == job_id, JobRow.state == "queued").values(priority=1000)
        if session.scalar(first.returning(JobRow.id)) is None:
            return None
    claim = claims.claim_next(sessions, owner, lease)
    return claim if claim is not None and claim.job_id == job_id else None

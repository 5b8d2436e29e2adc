"""What a project keeps for a number of days only: jobs that have ended, uploads, results of stages.

Each step is short, and conditional: a second dispatcher finds what the first has left.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from app.lifecycle.states import JobState
from app.store import expiry, removal
from app.store.audit import record
from app.store.engine import Sessions, clock
from app.store.jobs import lock_job
from app.store.stages import USE_NOTED_EVERY
from app.store.uploads import lock_upload

AT_MOST = 50
"""Of each kind in one round."""
LONGEST_DAYS = 36_500


@dataclass(frozen=True, slots=True)
class Expired:
    """How many of each went in one round, and whether there may be more."""

    jobs: int = 0
    uploads: int = 0
    results: int = 0
    more: bool = False

    @property
    def total(self) -> int:
        return self.jobs + self.uploads + self.results


def expire(
    sessions: Sessions, default_days: int | None, *, now: datetime | None = None, at_most: int = AT_MOST
) -> Expired:
    """Remove what is older than its project keeps things. Pinned jobs and uploads stay, and so do uploads of a job
    that is kept.

    Args:
        default_days: of projects without a number of their own; None: for ever.
        now: the time to compare with; by default that of the database.
        at_most: rows of each kind.
    """
    with sessions.read() as session:
        now = now or clock(session)
        projects = expiry.projects_that_forget(session, default_days)
    jobs = uploads = results = 0
    for project_id, days in projects:
        before = now - timedelta(days=min(days, LONGEST_DAYS))
        ours = sessions.of(project_id)
        jobs += _expire_jobs(ours, before, at_most - jobs)
        uploads += _expire_uploads(ours, before, at_most - uploads)
        results += _expire_results(ours, before, at_most - results)
    return Expired(jobs, uploads, results, at_most in (jobs, uploads, results))


def _expire_jobs(sessions: Sessions, before: datetime, at_most: int) -> int:
    with sessions.read() as session:
        due = expiry.expired_jobs(session, before, at_most)
    removed = 0
    for job_id in due:
        with sessions.begin() as session:
            job = lock_job(session, job_id)
            if job is None or job.pinned or not JobState(job.state).final:
                continue
            removal.remove_job(session, job, clock(session))
            record(session, "job.expire", f"/v1/jobs/{job_id}")
            removed += 1
    return removed


def _expire_uploads(sessions: Sessions, before: datetime, at_most: int) -> int:
    with sessions.read() as session:
        due = expiry.expired_uploads(session, before, at_most)
    removed = 0
    for kind, upload_id in due:
        with sessions.begin() as session:
            upload = lock_upload(session, kind, upload_id)
            if upload is None or not expiry.is_expired(session, upload, before):
                continue
            removal.remove_upload(session, upload, clock(session))
            record(session, "upload.expire", f"/v1/{kind}s/{upload_id}")
            removed += 1
    return removed


def _expire_results(sessions: Sessions, before: datetime, at_most: int) -> int:
    with sessions.begin() as session:
        # A job that is under way may need again what it has used since it began.
        began = expiry.oldest_start(session)
        before = before if began is None else min(before, began)
        return expiry.remove_expired_results(session, before - USE_NOTED_EVERY, at_most, clock(session))

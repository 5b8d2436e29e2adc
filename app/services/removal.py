"""Removing jobs and uploads that nothing needs any more."""

from __future__ import annotations

from app.errors import AppError
from app.lifecycle.states import JobState
from app.services.jobs import known_id as known_job
from app.services.jobs import unknown_job
from app.services.uploads import known_id as known_upload
from app.services.uploads import unknown_upload
from app.store import removal
from app.store.audit import record
from app.store.engine import Sessions, clock
from app.store.jobs import lock_job
from app.store.uploads import lock_upload

NAMED = 3
"""Of the jobs that need an upload, so many are named."""


def remove_job(sessions: Sessions, job_id: str) -> None:
    """Remove a job that has ended, with its results, events, log and idempotency keys. Replans of it stay.

    Raises:
        AppError: `not_found`; `in_use` for a job that waits or runs.
    """
    with sessions.begin() as session:
        job = lock_job(session, known_job(job_id))
        if job is None:
            raise unknown_job(job_id)
        if not JobState(job.state).final:
            raise AppError(
                "in_use",
                f"the job {job_id} is {job.state}; cancel it first: POST /v1/jobs/{job_id}/cancel, and repeat this "
                "when it has ended",
            )
        removal.remove_job(session, job, clock(session))
        record(session, "job.delete", f"/v1/jobs/{job_id}")


def remove_upload(sessions: Sessions, kind: str, upload_id: str) -> None:
    """Remove a model or dataset (`kind`); jobs that have ended with it stay, with all their results.

    Raises:
        AppError: `not_found`; `in_use` while a job that waits or runs reads it.
    """
    with sessions.begin() as session:
        upload = lock_upload(session, kind, known_upload(kind, upload_id))
        if upload is None:
            raise unknown_upload(kind, upload_id)
        needing = removal.jobs_that_need(session, kind, upload_id, NAMED + 1)
        if needing:
            more = " and others" if len(needing) > NAMED else ""
            raise AppError(
                "in_use",
                f"the {kind} {upload_id} is read by jobs that have not ended: {', '.join(needing[:NAMED])}{more}; wait "
                "for them, or cancel them",
            )
        removal.remove_upload(session, upload, clock(session))
        record(session, "upload.delete", f"/v1/{kind}s/{upload_id}")

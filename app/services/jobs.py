"""Making, finding and stopping jobs."""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import case
from sqlalchemy.orm import Session

from app.access.quotas import admit_job
from app.errors import AppError
from app.lifecycle.messages import Wake
from app.lifecycle.states import JobState
from app.schemas.certificate_request import CertificateRequest
from app.schemas.job_request import FROM_ELSEWHERE, OF_A_SEARCH, JobRequest, uploaded_as
from app.schemas.labels import JobLabels, split_labels
from app.schemas.parsing import is_certificate, merge, parse_labels, parse_request, without_retired
from app.schemas.weights import OF_CANDIDATES, OF_INTEGERS, WIDTHS_OF_TARGETS
from app.services.base_plans import with_whole_plan
from app.services.cursors import from_cursor, to_cursor
from app.services.earlier_search import drop_per_damage
from app.store import jobs
from app.store.audit import record
from app.store.engine import Sessions, clock, project_of
from app.store.idempotency import take_key
from app.store.tables import JobEventRow, JobRow, JobUploadRow
from app.store.uploads import use_upload
from app.tracing import traceparent

_JOB_ID = re.compile(r"[0-9a-f]{32}")
NO_LABELS = JobLabels()
_IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e]{1,255}")


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """What a client sends so that a repeated request makes no second job."""

    scope: str
    """The call, e.g. `jobs`: keys of different calls are different keys."""
    key: str

    def __post_init__(self) -> None:
        if not _IDEMPOTENCY_KEY.fullmatch(self.key):
            raise AppError(
                "request_invalid",
                f"an Idempotency-Key has 1 to 255 visible ASCII characters without spaces, got {self.key[:300]!r}; "
                "a UUID is a good one",
            )


def submit(
    sessions: Sessions,
    wake: Wake,
    request: JobRequest | CertificateRequest,
    labels: JobLabels = NO_LABELS,
    *,
    key: IdempotencyKey | None = None,
    parent_id: str | None = None,
    slope: float | None = None,
) -> JobRow:
    """Store a job, then wake a worker up. A request that repeats a key gets the job that the first one made.

    Args:
        slope: `search.drop_per_damage` of the job where `request` has none. Requests are told apart by what was sent,
            and this was looked up.

    Raises:
        AppError: `not_found` for an unknown model or dataset; `idempotency_mismatch`; `quota_exceeded`; what
            `with_whole_plan` raises.
    """
    if isinstance(request, JobRequest):
        request = with_whole_plan(sessions, request)
    stored = request.model_dump(mode="json")
    known: list[Any] = [parent_id, stored]
    if labels != NO_LABELS:
        # Only then, so that keys of an older version, which knew no labels, still fit their requests.
        known.append(labels.model_dump(mode="json"))
    fingerprint = hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()
    if slope is not None:
        stored = merge(stored, {"search": {"drop_per_damage": slope}})
    taken = None
    with sessions.begin() as session:
        job = _insert(session, request, stored, labels, parent_id)
        first = None if key is None else take_key(session, key.scope, key.key, fingerprint, job.id, job.created_at)
        if first is not None:
            taken = first.job_id, first.fingerprint
            session.rollback()
        else:
            admit_job(session)
            parent = None if parent_id is None else {"parent_id": parent_id}
            record(session, "job.submit", f"/v1/jobs/{job.id}", parent)
    if taken is None:
        wake()
        return job
    if taken[1] != fingerprint:
        raise AppError(
            "idempotency_mismatch",
            f"this Idempotency-Key made the job {taken[0]} from another request; send that request again, or take a "
            "new key for a new job",
        )
    return get(sessions, taken[0])


def replan(
    sessions: Sessions,
    wake: Wake,
    job_id: str,
    changes: Mapping[str, Any],
    *,
    key: str | None = None,
) -> JobRow:
    """A new job with the request of `job_id` and `changes` merged into it (RFC 7396: null means the default).

    The worker reuses whatever of the analysis does not depend on the changes, and its search begins with what that of
    the job measured (`search.drop_per_damage`), unless the changes say with what. Changes with a plan drop the options
    of a search; a job that applied a plan applies it again, unless the changes hold `{"plan": null}`. Changes that
    describe in another way what weights may get replace the job's description. A plan among the changes needs to name
    only what differs from the job's plan.

    Raises:
        AppError: `not_found`, `request_invalid`, `replan_not_applicable` and what `submit` raises.
    """
    parent = get(sessions, job_id)
    if is_certificate(parent.request):
        raise AppError(
            "replan_not_applicable",
            f"the job {job_id} certified a quantized file and made no plan; to certify it with another budget send "
            "POST /v1/certificates with the ids of its request, to have the float model quantized POST /v1/jobs",
        )
    elsewhere = [name for name in FROM_ELSEWHERE if name in changes]
    if elsewhere:
        raise AppError(
            "request_invalid",
            f"a replan is about the model and the data of its job, got {' and '.join(elsewhere)}; "
            "for others send POST /v1/jobs",
        )
    given, changes = split_labels(changes)
    labels = parse_labels(JobLabels, given)
    request = parse_request(merge(_left_by(changes, without_retired(parent.request)), changes))
    if changes.get("plan") is not None:
        request = with_whole_plan(sessions, request, job_id)
    scoped = None if key is None else IdempotencyKey(f"replan/{job_id}", key)
    slope = None if _says_where_to_begin(changes) else drop_per_damage(sessions, parent, request)
    return submit(sessions, wake, request, labels, key=scoped, parent_id=job_id, slope=slope)


def _says_where_to_begin(changes: Mapping[str, Any]) -> bool:
    search = changes.get("search")
    return changes.get("plan") is not None or (isinstance(search, Mapping) and "drop_per_damage" in search)


def _left_by(changes: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """The request `before` without the fields that `changes` replace without naming them.

    A stored request has every field: a default must not stand in the way of a change.
    """
    before = merge(before, {"search": {"drop_per_damage": None}})
    if changes.get("plan") is not None:
        before = merge(before, dict.fromkeys(OF_A_SEARCH) | {"activations": {"bits": None}})
    weights, changed = before["weights"], changes.get("weights")
    changed = changed if isinstance(changed, Mapping) else {}
    given = {name for name, value in changed.items() if value is not None}
    applies = before.get("plan") is not None or changes.get("plan") is not None
    was_by_name = weights.get("formats") is not None
    no_longer_by_name = was_by_name and ("formats" in changed or given.intersection(OF_INTEGERS))
    dropped = set(OF_CANDIDATES) if applies or "formats" in given or no_longer_by_name else set()
    if changed.get("granularity", "block") != "block":
        dropped.add("block_size")
    # requests of an earlier version had these widths where they said nothing
    if "target" in changes and tuple(weights["bits"] or ()) == WIDTHS_OF_TARGETS.get(before.get("target", "")):
        dropped.add("bits")
    return {**before, "weights": {name: value for name, value in weights.items() if name not in dropped}}


def get(sessions: Sessions, job_id: str) -> JobRow:
    """The job `job_id`.

    Raises:
        AppError: `not_found`.
    """
    with sessions.read() as session:
        return _get(session, job_id)


def recent(
    sessions: Sessions, wanted: jobs.JobFilter, limit: int, cursor: str | None
) -> tuple[Sequence[JobRow], str | None]:
    """Jobs, newest first, and the cursor of the next page; None when there are no more."""
    before = from_cursor(cursor)
    with sessions.read() as session:
        rows = jobs.list_jobs(session, wanted, limit + 1, before)
    page = rows[:limit]
    return page, to_cursor(page[-1].created_at, page[-1].id) if len(rows) > limit else None


def cancel(sessions: Sessions, job_id: str) -> JobRow:
    """Cancel a job: at once while it waits, else at the worker's next heartbeat. Repeating it does nothing.

    Raises:
        AppError: `not_found`; `job_finished` for a job that ended in another way.
    """
    with sessions.begin() as session:
        now = clock(session)
        before = _get(session, job_id)
        if before.state == JobState.CANCELLED or before.cancel_requested:
            return before
        waiting = JobRow.state == JobState.QUEUED
        # One statement, because a worker may claim the job meanwhile.
        job = jobs.change(
            session,
            jobs.active(job_id),
            {
                "cancel_requested": True,
                "state": case((waiting, JobState.CANCELLED.value), else_=JobRow.state),
                "finished_at": case((waiting, now), else_=None),
            },
        )
        if job is None:
            session.expire_all()
            ended = _get(session, job_id)
            if ended.state == JobState.CANCELLED:  # by another call, meanwhile
                return ended
            raise AppError("job_finished", f"the job {job_id} has {ended.state} and cannot be cancelled any more")
        record(session, "job.cancel", f"/v1/jobs/{job_id}")
        if job.state == JobState.CANCELLED:
            jobs.add_event(session, job, "state", {"state": job.state}, now)
        else:
            jobs.add_event(session, job, "cancel_requested", {}, now)
        return job


def watch(sessions: Sessions, job_id: str, after: int) -> tuple[JobRow, Sequence[JobEventRow]]:
    """The job and its events after number `after`, of one moment.

    Raises:
        AppError: `not_found`.
    """
    with sessions.read() as session:
        job = _get(session, job_id)
        # Between two statements PostgreSQL may show a newer event than this row knows; the next call has it too.
        return job, [event for event in jobs.events_after(session, job_id, after) if event.seq <= job.last_event]


def _insert(
    session: Session,
    request: JobRequest | CertificateRequest,
    stored: dict[str, Any],
    labels: JobLabels,
    parent_id: str | None,
) -> JobRow:
    now = clock(session)
    # In one order, whatever a request calls them: two transactions that wait for each other would both fail.
    read = sorted((uploaded_as(kind), upload_id, kind) for kind, upload_id in request.uploads.items())
    for sent_as, upload_id, kind in read:
        if not use_upload(session, sent_as, upload_id, now):
            raise AppError("not_found", f"no {kind} has the id {upload_id}; upload it with PUT /v1/{sent_as}s")
    if parent_id is not None and not jobs.keep_job(session, parent_id):
        raise unknown_job(parent_id)
    job = JobRow(
        id=uuid.uuid4().hex,
        project_id=project_of(session),
        parent_id=parent_id,
        model_id=request.model_id,
        dataset_id=request.dataset_id,
        request=stored,
        name=labels.name,
        tags=list(labels.tags) or None,
        priority=labels.priority,
        pinned=labels.pinned,
        trace=traceparent(),
        state=JobState.QUEUED.value,
        created_at=now,
    )
    session.add(job)
    session.flush()
    session.add_all(
        JobUploadRow(job_id=job.id, kind=kind, upload_id=upload_id)
        for kind, upload_id in sorted({(sent_as, upload_id) for sent_as, upload_id, _ in read})
    )
    jobs.add_event(session, job, "state", {"state": job.state}, now)
    return job


def _get(session: Session, job_id: str) -> JobRow:
    job = jobs.find_job(session, known_id(job_id))
    if job is None:
        raise unknown_job(job_id)
    return job


def known_id(job_id: str) -> str:
    """`job_id`, which may be that of a job.

    Raises:
        AppError: `not_found`: it is not even a text that the database would take.
    """
    if not _JOB_ID.fullmatch(job_id):
        raise unknown_job(job_id)
    return job_id


def unknown_job(job_id: str) -> AppError:
    """The error `not_found` of a job."""
    return AppError("not_found", f"no job has the id {job_id[:64]!r}; GET /v1/jobs lists them")

"""Making, watching and stopping jobs."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from pydantic import AwareDatetime

from app.api.declared import declared
from app.api.problems import problem_answers
from app.api.receiving import received_json
from app.api.state import Service
from app.api.submission import JOB, received_form
from app.errors import problem
from app.lifecycle.states import JobState, Outcome
from app.schemas.answers import Job, JobList, Problem
from app.schemas.budget import Sha256
from app.schemas.job_request import FROM_ELSEWHERE, JobRequest
from app.schemas.labels import JobLabels, Name, Tag
from app.schemas.parsing import parse_labelled, parse_object, parse_request
from app.services import jobs
from app.services.labels import label_job
from app.services.removal import remove_job
from app.store.jobs import JobFilter
from app.store.tables import JobRow

router = APIRouter(prefix="/v1", tags=["jobs"])

Key = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        description="A repeated request with the same key makes no second job; another request with it is refused.",
    ),
]
Limit = Annotated[int, Query(ge=1, le=200)]
Cursor = Annotated[str | None, Query(max_length=200, description="`next_cursor` of the page before.")]
SUBMIT_ANSWERS = {202: declared(202, "Location")} | problem_answers(
    "origin_refused",
    "role_insufficient",
    "request_malformed",
    "request_invalid",
    "budget_invalid",
    "constraint_impossible",
    "plan_invalid",
    "layers_unknown",
    "idempotency_mismatch",
    "not_found",
    "artifact_missing",
    "media_type_unsupported",
    "payload_too_large",
    "storage_full",
)
PATCH_ERRORS = problem_answers(
    "origin_refused",
    "role_insufficient",
    "request_malformed",
    "request_invalid",
    "not_found",
    "media_type_unsupported",
    "payload_too_large",
)
DELETE_ERRORS = problem_answers("origin_refused", "role_insufficient", "not_found", "in_use")
_CANCEL_ERRORS = problem_answers("origin_refused", "role_insufficient", "not_found", "job_finished")
_REQUEST_SCHEMA = JobRequest.model_json_schema(ref_template="#/components/schemas/{model}")
_DEFINITIONS = _REQUEST_SCHEMA.pop("$defs")
_LABELS_SCHEMA = JobLabels.model_json_schema()
LABELS: dict[str, Any] = _LABELS_SCHEMA["properties"]
"""Members of every request that makes a job, beside those that say what is computed."""
_REQUEST_SCHEMA["properties"] |= LABELS
_PART_SCHEMA = {
    **_REQUEST_SCHEMA,
    "properties": {name: s for name, s in _REQUEST_SCHEMA["properties"].items() if name not in FROM_ELSEWHERE},
    "required": [],
}
_CHANGES_SCHEMA = {**_PART_SCHEMA, "description": "The members to change, merged as by RFC 7396."}
MERGE_PATCH = "application/merge-patch+json"
BINARY = {"type": "string", "format": "binary"}
_SUBMIT_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": _REQUEST_SCHEMA},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {"model": BINARY, "dataset": BINARY, "metric": BINARY, "request": _PART_SCHEMA},
                    "required": ["model"],
                }
            },
        },
    }
}
_CHANGES_BODY: dict[str, Any] = {"requestBody": {"content": {"application/json": {"schema": _CHANGES_SCHEMA}}}}


def patch_body(schema: dict[str, Any]) -> dict[str, Any]:
    """What a call that changes labels declares of its body."""
    return {
        "requestBody": {
            "required": True,
            "content": {kind: {"schema": schema} for kind in (MERGE_PATCH, "application/json")},
        }
    }


SCHEMAS = _DEFINITIONS
"""Schemas that the bodies above refer to; `app.main` adds them to OpenAPI."""


@router.post("/jobs", name="submit_job", status_code=202, responses=SUBMIT_ANSWERS, openapi_extra=_SUBMIT_BODY)
async def submit(request: Request, response: Response, service: Service, key: Key = None) -> Job:
    """Make a job. JSON names uploads by id; multipart brings `model`, `dataset`, `metric` and `request` in one call."""
    scoped = None if key is None else jobs.IdempotencyKey("jobs", key)
    if request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        wanted, labels = await received_form(request, service, JOB)
    else:
        wanted, labels = parse_labelled(parse_request, parse_object(await received_json(request)))
    row = await run_in_threadpool(
        jobs.submit,
        service.sessions,
        service.wake,
        wanted,
        labels,
        key=scoped,
    )
    return accepted(response, row)


@router.post(
    "/jobs/{job_id}/replan",
    name="replan_job",
    status_code=202,
    responses={**SUBMIT_ANSWERS, **problem_answers("replan_not_applicable")},
    openapi_extra=_CHANGES_BODY,
)
async def replan(job_id: str, request: Request, response: Response, service: Service, key: Key = None) -> Job:
    """Ask another question about the same model and data: a new job that reuses the analysis."""
    changes = parse_object(await received_json(request))
    row = await run_in_threadpool(
        jobs.replan,
        service.sessions,
        service.wake,
        job_id,
        changes,
        key=key,
    )
    return accepted(response, row)


@router.get("/jobs", responses=problem_answers("request_invalid"))
def list_jobs(
    service: Service,
    state: Annotated[JobState | None, Query(description="Only jobs in this state.")] = None,
    outcome: Annotated[Outcome | None, Query(description="Only jobs that ended so.")] = None,
    name: Annotated[Name | None, Query(description="Only jobs of this name.")] = None,
    tag: Annotated[Tag | None, Query(description="Only jobs with this tag.")] = None,
    model_id: Annotated[Sha256 | None, Query(description="Only jobs about this model.")] = None,
    created_after: Annotated[AwareDatetime | None, Query(description="Only jobs made after this time.")] = None,
    upload_id: Annotated[Sha256 | None, Query(description="Only jobs that read this model or dataset.")] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> JobList:
    """Jobs, newest first."""
    wanted = JobFilter(state, outcome, name, tag, model_id, created_after, upload_id)
    rows, following = jobs.recent(service.sessions, wanted, limit, cursor)
    return JobList(jobs=[job_view(row) for row in rows], next_cursor=following)


@router.get("/jobs/{job_id}", responses=problem_answers("not_found"))
def get_job(job_id: str, service: Service) -> Job:
    """State, stage, progress, and in the end the summary or the error."""
    return job_view(jobs.get(service.sessions, job_id))


@router.patch(
    "/jobs/{job_id}", responses=PATCH_ERRORS, openapi_extra=patch_body({**_LABELS_SCHEMA, "title": "JobLabels"})
)
async def patch_job(job_id: str, request: Request, service: Service) -> Job:
    """Change name, tags, priority or whether the job is pinned; merged as by RFC 7396."""
    changes = parse_object(await received_json(request, MERGE_PATCH))
    return job_view(await run_in_threadpool(label_job, service.sessions, job_id, changes))


@router.delete("/jobs/{job_id}", status_code=204, responses=DELETE_ERRORS)
def delete_job(job_id: str, service: Service) -> None:
    """Remove a job that has ended, with all that it gave. Replans of it stay."""
    remove_job(service.sessions, job_id)


@router.post("/jobs/{job_id}/cancel", name="cancel_job", status_code=202, responses=_CANCEL_ERRORS)
def cancel(job_id: str, service: Service) -> Job:
    """Stop a job. One that runs stops at its next heartbeat, within seconds."""
    return job_view(jobs.cancel(service.sessions, job_id))


def job_view(row: JobRow) -> Job:
    """A job as the API shows it."""
    error = None
    if row.error_code is not None:
        error = Problem(**problem(row.error_code, row.error_detail or "", instance=f"/v1/jobs/{row.id}"))
    return Job(error=error, **{name: getattr(row, name) for name in Job.model_fields if name != "error"})


def accepted(response: Response, row: JobRow) -> Job:
    """The answer to a request that made a job."""
    response.headers["Location"] = f"/v1/jobs/{row.id}"
    return job_view(row)

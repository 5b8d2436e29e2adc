"""Making, watching and stopping jobs."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.concurrency import run_in_threadpool

from app.api.problems import problem_answers
from app.api.receiving import received_json
from app.api.state import Service
from app.api.submission import JOB, received_form
from app.errors import problem
from app.lifecycle.states import JobState
from app.schemas.answers import Job, JobList, Problem
from app.schemas.job_request import FROM_ELSEWHERE, JobRequest
from app.schemas.parsing import parse_object, parse_request
from app.services import jobs
from app.store.tables import JobRow

router = APIRouter(prefix="/v1", tags=["jobs"])

Key = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        description="A repeated request with the same key makes no second job; another request with it is refused.",
    ),
]
SUBMIT_ERRORS = problem_answers(
    "origin_refused",
    "role_insufficient",
    "request_malformed",
    "request_invalid",
    "budget_invalid",
    "constraint_impossible",
    "idempotency_mismatch",
    "not_found",
    "media_type_unsupported",
    "payload_too_large",
    "storage_full",
)
_CANCEL_ERRORS = problem_answers("origin_refused", "role_insufficient", "not_found", "job_finished")
_REQUEST_SCHEMA = JobRequest.model_json_schema(ref_template="#/components/schemas/{model}")
_DEFINITIONS = _REQUEST_SCHEMA.pop("$defs")
_PART_SCHEMA = {
    **_REQUEST_SCHEMA,
    "properties": {name: s for name, s in _REQUEST_SCHEMA["properties"].items() if name not in FROM_ELSEWHERE},
    "required": [],
}
_PATCH_SCHEMA = {**_PART_SCHEMA, "description": "The members to change, merged as by RFC 7396."}
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
_PATCH_BODY: dict[str, Any] = {"requestBody": {"content": {"application/json": {"schema": _PATCH_SCHEMA}}}}

SCHEMAS = _DEFINITIONS
"""Schemas that the bodies above refer to; `app.main` adds them to OpenAPI."""


@router.post("/jobs", status_code=202, responses=SUBMIT_ERRORS, openapi_extra=_SUBMIT_BODY)
async def submit(request: Request, response: Response, service: Service, key: Key = None) -> Job:
    """Make a job. JSON names uploads by id; multipart brings `model`, `dataset`, `metric` and `request` in one call."""
    scoped = None if key is None else jobs.IdempotencyKey("jobs", key)
    if request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        wanted = await received_form(request, service, JOB)
    else:
        wanted = parse_request(parse_object(await received_json(request)))
    row = await run_in_threadpool(
        jobs.submit,
        service.sessions,
        service.wake,
        wanted,
        key=scoped,
    )
    return accepted(response, row)


@router.post(
    "/jobs/{job_id}/replan",
    status_code=202,
    responses={**SUBMIT_ERRORS, **problem_answers("replan_not_applicable")},
    openapi_extra=_PATCH_BODY,
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
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    cursor: Annotated[str | None, Query(max_length=200)] = None,
) -> JobList:
    """Jobs, newest first."""
    rows, following = jobs.recent(service.sessions, state, limit, cursor)
    return JobList(jobs=[job_view(row) for row in rows], next_cursor=following)


@router.get("/jobs/{job_id}", responses=problem_answers("not_found"))
def get_job(job_id: str, service: Service) -> Job:
    """State, stage, progress, and in the end the summary or the error."""
    return job_view(jobs.get(service.sessions, job_id))


@router.post("/jobs/{job_id}/cancel", status_code=202, responses=_CANCEL_ERRORS)
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

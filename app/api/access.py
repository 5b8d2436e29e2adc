"""The project of a key: its keys, its usage, and who did what in it."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.concurrency import run_in_threadpool

from app.access import keys, report
from app.api.declared import declared
from app.api.problems import problem_answers
from app.api.receiving import received_json
from app.api.state import AdminService, Service
from app.lifecycle.states import JobState
from app.schemas.access import (
    AuditEntry,
    AuditList,
    Key,
    KeyList,
    KeyRequest,
    NewKey,
    Project,
    ProjectQuotas,
    Usage,
    Used,
    parse_key_request,
)
from app.schemas.parsing import parse_object
from app.store.tables import KeyRow

router = APIRouter(prefix="/v1", tags=["access"])

_ROLE = problem_answers("role_insufficient")
_CHANGE = problem_answers("origin_refused", "role_insufficient", "not_found")
_CREATE = {201: declared(201, "Location")} | problem_answers(
    "origin_refused",
    "role_insufficient",
    "request_malformed",
    "request_invalid",
    "media_type_unsupported",
    "payload_too_large",
)
_REQUEST_SCHEMA = KeyRequest.model_json_schema(ref_template="#/components/schemas/{model}")
SCHEMAS = _REQUEST_SCHEMA.pop("$defs")
"""Schemas that the body below refers to; `app.main` adds them to OpenAPI."""
_KEY_BODY: dict[str, Any] = {
    "requestBody": {"required": True, "content": {"application/json": {"schema": _REQUEST_SCHEMA}}}
}


@router.get("/project")
def get_project(service: Service) -> Project:
    """The project of the key, the role of the key, and the quotas."""
    caller = service.caller
    quotas = ProjectQuotas(**{name: getattr(caller.quotas, name) for name in ProjectQuotas.model_fields})
    return Project(name=report.project_name(service.sessions), role=caller.role, key_id=caller.key_id, quotas=quotas)


@router.get("/usage")
def get_usage(service: Service) -> Usage:
    """What the project takes now, beside its quotas."""
    taken, quotas = report.usage(service.sessions), service.caller.quotas
    requests = service.rates.used(service.caller.project_id, quotas.requests_per_minute)
    return Usage(
        bytes=Used(used=taken.bytes_stored, quota=quotas.bytes),
        queued=Used(used=taken.jobs[JobState.QUEUED], quota=quotas.queued),
        running=Used(used=taken.jobs[JobState.RUNNING], quota=quotas.running),
        requests_per_minute=Used(used=requests, quota=quotas.requests_per_minute),
        jobs=taken.jobs,
    )


@router.get("/keys", responses=_ROLE)
def list_keys(service: AdminService) -> KeyList:
    """The keys of the project, oldest first, the revoked ones among them."""
    return KeyList(keys=[Key(**_members(row)) for row in keys.list_keys(service.sessions)])


@router.post("/keys", status_code=201, responses=_CREATE, openapi_extra=_KEY_BODY)
async def create_key(request: Request, response: Response, service: AdminService) -> NewKey:
    """Make a key to the project. The answer is the only one that has the key itself."""
    wanted = parse_key_request(parse_object(await received_json(request)))
    row, text = await run_in_threadpool(
        keys.create_key,
        service.sessions,
        wanted.role,
        label=wanted.label,
        valid_for=wanted.valid_for,
    )
    response.headers["Location"] = f"/v1/keys/{row.id}"
    response.headers["Cache-Control"] = "no-store"
    return NewKey(key=text, **_members(row))


@router.delete("/keys/{key_id}", responses=_CHANGE)
def revoke_key(key_id: str, service: AdminService) -> Key:
    """End a key at once. It stays in the list, so that the audit log can be read."""
    return Key(**_members(keys.revoke_key(service.sessions, key_id)))


@router.get("/audit", responses={**_ROLE, **problem_answers("request_invalid")})
def get_audit(
    service: AdminService,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    cursor: Annotated[str | None, Query(max_length=200)] = None,
) -> AuditList:
    """Who changed what in the project, newest first."""
    rows, following = report.audit_log(service.sessions, limit, cursor)
    entries = [AuditEntry(**{name: getattr(row, name) for name in AuditEntry.model_fields}) for row in rows]
    return AuditList(entries=entries, next_cursor=following)


def _members(row: KeyRow) -> dict[str, Any]:
    return {name: getattr(row, name) for name in Key.model_fields}

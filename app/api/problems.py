"""Every error answer is `application/problem+json` (RFC 9457), also those that FastAPI and Starlette make."""

from __future__ import annotations

import errno
import logging
import uuid
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import OperationalError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match

from app.api.declared import declared, reference
from app.api.heads import has_head
from app.errors import CATALOGUE, PROBLEM_MEDIA_TYPE, AppError, problem
from app.pages.problems import problem_page, wants_page
from app.schemas.parsing import invalid_fields
from app.store.objects import StorageUnavailable

logger = logging.getLogger(__name__)

_HEADERS_OF: Mapping[int, Sequence[str]] = {
    HTTPStatus.UNAUTHORIZED: ("WWW-Authenticate",),
    HTTPStatus.PRECONDITION_FAILED: ("Tus-Version",),
    HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE: ("Content-Range",),
    HTTPStatus.TOO_MANY_REQUESTS: ("Retry-After",),
    HTTPStatus.SERVICE_UNAVAILABLE: ("Retry-After",),
}
METHODS = ("GET", "HEAD", "PUT", "POST", "DELETE", "OPTIONS", "PATCH")
_UNDEFINED_TABLE = "42P01"
_CODE_BY_STATUS = {
    HTTPStatus.BAD_REQUEST: "request_malformed",
    HTTPStatus.NOT_FOUND: "not_found",
    HTTPStatus.METHOD_NOT_ALLOWED: "method_not_allowed",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "payload_too_large",
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: "media_type_unsupported",
    HTTPStatus.UNPROCESSABLE_ENTITY: "request_invalid",
}


def problem_response(
    request: Request, code: str, detail: str, extra: Mapping[str, Any] | None = None, headers: Any = None
) -> Response:
    """The answer for an error of the catalogue; for people, at the address of a page, a page."""
    if wants_page(request):
        return problem_page(request, code, detail, extra)
    body = problem(code, detail, instance=request.url.path, extra=extra)
    return JSONResponse(body, status_code=body["status"], headers=headers, media_type=PROBLEM_MEDIA_TYPE)


def problem_answers(*codes: str) -> dict[int | str, dict[str, Any]]:
    """What a route declares in OpenAPI: its errors by status."""
    by_status: dict[int, list[str]] = {}
    for code in codes:
        by_status.setdefault(CATALOGUE[code].status, []).append(code)
    return {
        status: declared(
            status,
            *_HEADERS_OF.get(status, ()),
            description=f"{HTTPStatus(status).phrase}: {', '.join(known)}",
            content={PROBLEM_MEDIA_TYPE: {"schema": reference("Problem"), "examples": _examples(known)}},
        )
        for status, known in by_status.items()
    }


def _examples(codes: Sequence[str]) -> dict[str, Any]:
    detail = "What is wrong, what came, what was expected, and what to do."
    return {code: {"value": problem(code, detail)} for code in codes}


def install(app: FastAPI) -> None:
    """Register a handler for every kind of error."""
    app.exception_handler(AppError)(_app_error)
    app.exception_handler(RequestValidationError)(_invalid_parameters)
    app.exception_handler(HTTPException)(_http_error)
    app.exception_handler(ClientDisconnect)(_disconnected)
    app.exception_handler(OperationalError)(_database_away)
    app.exception_handler(PoolTimeout)(_database_away)
    app.exception_handler(ProgrammingError)(_wrong_sql)
    app.exception_handler(StorageUnavailable)(_storage_away)
    app.exception_handler(OSError)(_os_error)
    app.exception_handler(Exception)(_internal)


def _app_error(request: Request, error: AppError) -> Response:
    return problem_response(request, error.code, error.detail, error.extra, error.headers)


def _invalid_parameters(request: Request, error: RequestValidationError) -> Response:
    return _app_error(request, invalid_fields(error.errors()))


def _http_error(request: Request, error: HTTPException) -> Response:
    code = _CODE_BY_STATUS.get(HTTPStatus(error.status_code), "internal")
    detail = str(error.detail)
    if code == "not_found":
        there = "the list of jobs is at /" if wants_page(request) else "/docs lists every address"
        detail = f"there is nothing at {request.url.path}; {there}"
    elif code == "method_not_allowed":
        allowed = ", ".join(_allowed_methods(request))
        detail = f"{request.url.path} does not answer {request.method}; it answers {allowed}"
        return problem_response(request, code, detail, headers={"Allow": allowed})
    return problem_response(request, code, detail, headers=error.headers)


def _allowed_methods(request: Request) -> list[str]:
    # The error names the methods of the first route with this path only, and each method has a route of its own.
    allowed = {
        method
        for method in METHODS
        if any(route.matches({**request.scope, "method": method})[0] is Match.FULL for route in request.app.routes)
    }
    if "GET" in allowed and has_head(request.url.path):
        allowed.add("HEAD")
    return [method for method in METHODS if method in allowed]


def _disconnected(request: Request, _error: Exception) -> Response:
    return problem_response(request, "client_disconnected", "the connection was closed before the body was complete")


def _database_away(request: Request, error: Exception) -> Response:
    cause = str(getattr(error, "orig", error))
    if "database or disk is full" in cause or "No space left" in cause:  # SQLite, PostgreSQL
        return _storage_full(request, error)
    logger.error("the database does not answer", exc_info=error)
    if "no such table" in cause or getattr(getattr(error, "orig", None), "sqlstate", None) == _UNDEFINED_TABLE:
        detail = "the database does not have the schema of this version; run: bitbudget migrate"
    else:
        detail = (
            "the database does not answer; repeat the request in a moment, and give POST an Idempotency-Key, so that "
            "a request that was stored all the same makes no second job"
        )
    return problem_response(request, "database_unavailable", detail, headers={"Retry-After": "5"})


def _wrong_sql(request: Request, error: ProgrammingError) -> Response:
    # SQLite calls a missing table an operational error, PostgreSQL's driver a mistake of the program.
    if getattr(error.orig, "sqlstate", None) == _UNDEFINED_TABLE:
        return _database_away(request, error)
    return _internal(request, error)


def _storage_away(request: Request, error: Exception) -> Response:
    logger.error("the storage of contents does not answer", exc_info=error)
    detail = "the storage in which models, data and results lie does not answer; repeat the request in a moment"
    return problem_response(request, "storage_unavailable", detail, headers={"Retry-After": "5"})


def _os_error(request: Request, error: OSError) -> Response:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return _storage_full(request, error)
    return _internal(request, error)


def _storage_full(request: Request, error: Exception) -> Response:
    logger.error("no room is left", exc_info=error)
    return problem_response(
        request,
        "storage_full",
        "the disk of the service is full. Free some room (BITBUDGET_TMP_DIR and "
        "the database are what grows), then repeat it",
    )


def _internal(request: Request, error: Exception) -> Response:
    # The text of an unforeseen error may hold what is nobody's business; the log has it, under a number to find it.
    number = uuid.uuid4().hex[:12]
    logger.error("error %s answering %s %s", number, request.method, request.url.path, exc_info=error)
    return problem_response(
        request, "internal", f"the service failed because of an internal error; its log has the cause under {number}"
    )

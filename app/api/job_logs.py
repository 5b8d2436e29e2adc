"""GET /v1/jobs/{id}/log: what was said about a job, as lines of JSON or of text."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from app.api.problems import problem_answers
from app.api.state import Service
from app.services.job_logs import ShownLine, job_log

router = APIRouter(prefix="/v1/jobs/{job_id}", tags=["jobs"])

JSON_LINES = "application/jsonl"
TEXT = "text/plain"
_LINES = {
    "schema": {"type": "string", "description": "A LogLine for each line of the log."},
    "example": '{"seq": 1, "at": "2026-01-31T12:00:00+00:00", "level": "info", "text": "stage admit done"}\n',
}
_TEXT = {"schema": {"type": "string"}, "example": "2026-01-31T12:00:00Z INFO    stage admit done\n"}


@router.get(
    "/log",
    responses={200: {"content": {JSON_LINES: _LINES, TEXT: _TEXT}}, **problem_answers("not_found", "request_invalid")},
    response_class=Response,
)
def get_log(
    job_id: str,
    request: Request,
    service: Service,
    after: Annotated[int, Query(ge=0, lt=2**31, description="Only lines after this number.")] = 0,
    limit: Annotated[int, Query(ge=1, le=2_000)] = 1_000,
) -> Response:
    """What the workers said about the job, oldest first; lines of text where `Accept` asks for `text/plain`, else
    lines of JSON: `seq`, `at`, `level`, `text`."""
    lines = job_log(service.sessions, job_id, after, limit)
    if _prefers_text(request.headers.get("accept", "")):
        return Response("".join(_as_text(lines)), media_type=TEXT)
    return Response("".join(_as_json(lines)), media_type=JSON_LINES)


def _as_json(lines: Sequence[ShownLine]) -> Iterator[str]:
    for line in lines:
        members = {"seq": line.seq, "at": line.at.isoformat(), "level": line.level, "text": line.text}
        yield json.dumps(members) + "\n"


def _as_text(lines: Sequence[ShownLine]) -> Iterator[str]:
    for line in lines:
        # Names out of uploaded files could steer the terminal that shows them.
        text = "".join(character if character.isprintable() else " " for character in line.text)
        yield f"{line.at:%Y-%m-%dT%H:%M:%SZ} {line.level.upper():7} {text}\n"


def _prefers_text(accept: str) -> bool:
    """Whether the first of both media types that the header names is text."""
    named = [part.partition(";")[0].strip().lower() for part in accept.split(",")]
    return next((name == TEXT for name in named if name in (TEXT, JSON_LINES, "application/json")), False)

"""GET /v1/jobs/{id}/events: server-sent events, read from the database, so that any API process can serve them."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import anyio
from fastapi import APIRouter, Header
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse

from app.api.declared import reference
from app.api.problems import problem_answers
from app.api.state import Service
from app.errors import AppError
from app.lifecycle.states import JobState
from app.services import jobs
from app.store.engine import Sessions
from app.store.tables import JobEventRow, JobRow

router = APIRouter(prefix="/v1/jobs/{job_id}", tags=["jobs"])

POLL_SECONDS = 0.5
KINDS = {
    "state": "StateEvent",
    "stage": "StageEvent",
    "estimate": "EstimateEvent",
    "method": "MethodEvent",
    "evaluated": "EvaluatedEvent",
    "cancel_requested": "CancelRequestedEvent",
    "progress": "ProgressEvent",
}
"""Schemas of the data of events, by the kind of the event."""
EVENT_STREAM: dict[str, Any] = {
    "content": {
        "text/event-stream": {
            "schema": {
                "type": "object",
                "description": "One event. All but `progress` have an `id`.",
                "required": ["event", "data"],
                "properties": {
                    "event": {"enum": list(KINDS)},
                    "data": {
                        "type": "string",
                        "contentMediaType": "application/json",
                        "contentSchema": {"anyOf": [reference(schema) for schema in KINDS.values()]},
                    },
                    "id": {"type": "string", "pattern": "^[0-9]+$"},
                },
            },
            "example": 'id: 2\nevent: stage\ndata: {"stage": "calibrate", "at": "2026-01-31T12:00:00+00:00"}\n\n',
        }
    }
}
STILL_HERE = ": still here\n\n"
SILENCE_SECONDS = 15.0
"""Proxies close connections on which nothing comes; after this long a comment does."""


@router.get(
    "/events",
    responses={200: EVENT_STREAM, **problem_answers("not_found", "request_invalid")},
    response_class=StreamingResponse,
)
async def get_events(
    job_id: str,
    service: Service,
    last_event_id: Annotated[
        int, Header(alias="Last-Event-ID", ge=0, lt=2**31, description="Only events after this one.")
    ] = 0,
) -> StreamingResponse:
    """What happens to the job, until it has ended: `state`, `stage`, `progress`, `cancel_requested`, and one
    `evaluated` per plan that was run.

    Every event but `progress` has a number and is repeated after a reconnect, from the one after Last-Event-ID on.
    """
    first = await run_in_threadpool(jobs.watch, service.sessions, job_id, last_event_id)  # 404 before the stream begins
    return streamed(_events(moments(service.sessions, job_id, last_event_id, first)))


@dataclass(frozen=True, slots=True)
class Moment:
    """A job as it is, and the events since the last look; none of them, and no progress, after a long silence."""

    job: JobRow
    news: Sequence[JobEventRow]
    progressed: bool


async def moments(
    sessions: Sessions, job_id: str, seen: int, first: tuple[JobRow, Sequence[JobEventRow]]
) -> AsyncIterator[Moment]:
    """What happens to the job, until it has ended or is gone.

    Args:
        seen: the number of the last event that is known.
        first: the job and its events after that one.
    """
    shown: tuple[object, ...] = (None, 0.0, None)
    spoke = time.monotonic()
    job, news = first
    while True:
        seen = news[-1].seq if news else seen
        progress = (job.stage, job.progress, job.eta_seconds)
        progressed = progress != shown and job.stage is not None
        if news or progressed or time.monotonic() - spoke > SILENCE_SECONDS:
            yield Moment(job, news, progressed)
            shown, spoke = progress, time.monotonic()
        if JobState(job.state).final:
            return
        await anyio.sleep(POLL_SECONDS)
        try:
            job, news = await run_in_threadpool(jobs.watch, sessions, job_id, seen)
        except AppError:  # it ended and was removed since the last look
            return


def streamed(frames: AsyncIterator[str]) -> StreamingResponse:
    """An answer of server-sent events."""
    headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    return StreamingResponse(frames, media_type="text/event-stream", headers=headers)


async def _events(news: AsyncIterator[Moment]) -> AsyncIterator[str]:
    async for moment in news:
        for event in moment.news:
            yield _numbered(event)
        if moment.progressed:
            job = moment.job
            yield _frame("progress", {"stage": job.stage, "progress": job.progress, "eta_seconds": job.eta_seconds})
        elif not moment.news:
            yield STILL_HERE


def _numbered(event: JobEventRow) -> str:
    data = {**event.data, "at": event.created_at.isoformat()}
    return f"id: {event.seq}\n{_frame(event.kind, data)}"


def _frame(kind: str, data: dict[str, Any]) -> str:
    return f"event: {kind}\ndata: {json.dumps(data)}\n\n"

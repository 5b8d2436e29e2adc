"""`/jobs/ID`: a job while it waits and runs, why it failed, or what it came to."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Form, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import RedirectResponse, Response, StreamingResponse

from app.api.events import STILL_HERE, Moment, moments, streamed
from app.api.jobs import job_view
from app.api.state import Service
from app.errors import AppError
from app.lifecycle.states import JobState
from app.pages.forms import Blank, key_of, new_key
from app.pages.job_live import Live
from app.pages.job_result import certificate_context, result_context
from app.pages.rendering import part, render
from app.schemas.parsing import is_certificate
from app.services import jobs, listing
from app.services.job_logs import job_log
from app.store.tables import JobRow

router = APIRouter(prefix="/jobs/{job_id}", include_in_schema=False)

_LOG_LINES = 200

Number = Annotated[float | None, Form(), Blank]


@router.get("", response_class=Response)
def show(request: Request, job_id: str, service: Service, sort: str = "", down: bool = False) -> Response:
    """The job, as it is now."""
    row, news = jobs.watch(service.sessions, job_id, 0)
    (listed,) = listing.jobs_by_id(service.sessions, [job_id])
    live = Live()
    live.add(news)
    context: dict[str, Any] = {
        "job": row,
        "view": job_view(row),
        "model_name": listed.model_name,
        "is_active": not JobState(row.state).final,
        "certifies": is_certificate(row.request),
        "live": live.view(row, datetime.now(UTC)),
        "log": [],
        "key": new_key(),
    }
    if row.state == JobState.SUCCEEDED:
        of_kind = certificate_context if context["certifies"] else result_context
        context |= of_kind(service.sessions, row, sort, down)
    elif row.state == JobState.FAILED:
        context["log"] = job_log(service.sessions, job_id, 0, _LOG_LINES)
    return render(request, "job.html", service, **context)


@router.get("/live", response_class=StreamingResponse)
async def watch(job_id: str, service: Service) -> StreamingResponse:
    """Server-sent events: `live` with what the page shows of a running job, whole each time, and `ended` at last.

    Whoever connects again gets all of it again, in place of what is shown.
    """
    first = await run_in_threadpool(jobs.watch, service.sessions, job_id, 0)
    return streamed(_frames(moments(service.sessions, job_id, 0, first)))


async def _frames(news: AsyncIterator[Moment]) -> AsyncIterator[str]:
    live = Live()
    async for moment in news:
        live.add(moment.news)
        if moment.news or moment.progressed:
            yield await run_in_threadpool(_shown, live, moment.job)
        else:
            yield STILL_HERE
    yield _frame("ended", "")


def _shown(live: Live, job: JobRow) -> str:
    return _frame("live", part("job_live.html", live=live.view(job, datetime.now(UTC))))


def _frame(kind: str, text: str) -> str:
    lines = "".join(f"data: {line}\n" for line in text.splitlines() or [""])
    return f"event: {kind}\n{lines}\n"


@router.post("/replan", response_class=Response)
def replan(
    job_id: str,
    service: Service,
    max_drop: Number = None,
    confidence: Number = None,
    deadline_seconds: Number = None,
    frontier_point: Annotated[int | None, Form(), Blank] = None,
    key: Annotated[str | None, Form(), Blank] = None,
) -> RedirectResponse:
    """Ask again with another budget, or apply a point of the frontier; then show the new job."""
    if frontier_point is not None:
        changes: dict[str, Any] = {"plan": {"frontier_point": frontier_point}}
    elif max_drop is None:
        raise AppError("request_invalid", "max_drop is empty; give the drop that is allowed, such as 0.01 for a point")
    else:
        # What is empty is null here, and so the default: without it the request would keep what it had.
        changes = {
            "budget": {"max_drop": max_drop, "confidence": confidence},
            "search": {"deadline_seconds": deadline_seconds},
        }
    row = jobs.replan(service.sessions, service.wake, job_id, changes, key=key_of(key, changes))
    return RedirectResponse(f"/jobs/{row.id}", 303)

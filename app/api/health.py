"""Liveness, readiness and metrics."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from app.access.keys import check_metrics_token
from app.api.problems import problem_answers
from app.api.state import Credentials, Open, token_of
from app.errors import AppError
from app.schemas.answers import Health, Readiness
from app.services.health import PROGRESS_WITHIN, WORKER_SEEN_WITHIN, condition

router = APIRouter(tags=["health"])


@router.get("/healthz", name="get_health")
async def healthz() -> Health:
    """The process answers; says nothing about what it depends on."""
    return Health()


@router.get("/readyz", name="get_readiness", responses=problem_answers("not_ready", "database_unavailable"))
def readyz(service: Open) -> Readiness:
    """Whether the database answers, and a worker is alive and, while jobs wait, gets on; and how long the oldest
    waiting job has waited, which is not told where projects have keys: it may be another's."""
    now = condition(service.sessions)
    waited = now.oldest_queued_seconds if service.settings.auth == "none" else None
    if now.workers == 0:
        raise AppError(
            "not_ready",
            f"no worker was seen within {WORKER_SEEN_WITHIN.total_seconds():g} s; jobs are accepted and wait. Start "
            "one: bitbudget worker",
            {"workers": 0, "progressing": 0, "oldest_queued_seconds": waited},
        )
    if now.stands_still:
        raise AppError(
            "not_ready",
            f"jobs wait, and within {PROGRESS_WITHIN.total_seconds():g} s none of {now.workers} workers has claimed "
            "one or got on with its own; jobs are accepted and wait. See the logs of the workers, and start them again",
            {"workers": now.workers, "progressing": 0, "oldest_queued_seconds": waited},
        )
    return Readiness(workers=now.workers, progressing=now.progressing, oldest_queued_seconds=waited)


@router.get(
    "/metrics",
    name="get_metrics",
    response_class=Response,
    responses={
        200: {"content": {"text/plain": {"schema": {"type": "string"}}}},
        **problem_answers("key_missing", "key_invalid"),
    },
)
def metrics(request: Request, service: Open, credentials: Credentials) -> Response:
    """Figures for Prometheus, about all projects."""
    check_metrics_token(service.settings, token_of(credentials))
    return Response(generate_latest(request.app.state.metrics.registry), media_type=CONTENT_TYPE_LATEST)

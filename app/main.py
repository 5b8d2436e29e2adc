"""The HTTP application. Nothing happens at import: whoever serves it calls `create_app`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI
from fastapi.telemetry import TelemetryConfig

from app.access.rates import Rates
from app.api import (
    access,
    certificates,
    descriptions,
    events,
    health,
    job_logs,
    jobs,
    problems,
    reports,
    results,
    resumable,
    schemas,
    stored,
    uploads,
    webhooks,
)
from app.api.compression import Compress
from app.api.guard import RefuseForeign, allowed_hosts
from app.api.heads import AnswerHead
from app.api.metrics import MeasureRequests, Metrics
from app.api.openapi import complete_openapi, operation_id
from app.api.state import Shared
from app.lifecycle.messages import Wake, waker
from app.pages import (
    api_reference,
    assets,
    certify,
    compare,
    job,
    job_actions,
    job_edit,
    new_job,
    recognised,
    signing_in,
)
from app.pages import jobs as jobs_page
from app.pages import stored as stored_page
from app.pages import usage as usage_page
from app.renderer import Renderer
from app.settings import Settings
from app.store.engine import open_sessions
from app.tracing import tracer_provider

DESCRIPTION = (
    "Give it a network and how much accuracy you can spare; get back a smaller network that keeps the promise, "
    "and the evidence. Errors are RFC 9457 problem details with a stable `code`."
)

# 422 takes the place of an answer that FastAPI would promise and nothing here gives.
_OF_ALL_CALLS = ("request_invalid", "host_refused", "internal")
_OF_CALLS_WITH_KEYS = ("key_missing", "key_invalid", "quota_exceeded")

UNTRACED = ("/healthz", "/readyz", "/metrics")
"""Asked every few seconds by machines."""


def create_app(settings: Settings, *, wake: Wake | None = None) -> FastAPI:
    """The application on a database that `app.store.migrate.upgrade` has prepared.

    Args:
        wake: tells a worker that there is work; by default a message over the broker of the settings.
    """
    sessions = open_sessions(settings.database_url, settings.objects())
    metrics = Metrics(sessions)
    renderer = Renderer()

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        yield
        renderer.close()
        sessions.dispose()

    app = FastAPI(
        title="bitbudget",
        version=version("bitbudget"),
        description=DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,  # FastAPI's own page would load its scripts from elsewhere
        redoc_url=None,
        generate_unique_id_function=operation_id,
        telemetry=_telemetry(),
    )
    app.state.bitbudget = Shared(settings, sessions, wake or waker(settings), Rates(settings.broker_url), renderer)
    app.state.metrics = metrics
    app.add_middleware(AnswerHead, router=app.router)
    app.add_middleware(Compress)
    app.add_middleware(RefuseForeign, hosts=allowed_hosts(settings))
    app.add_middleware(MeasureRequests, metrics=metrics)  # the outer one: what is refused is counted too
    problems.install(app)
    for module in (
        uploads,
        resumable,
        stored,
        descriptions,
        jobs,
        certificates,
        events,
        job_logs,
        results,
        reports,
        access,
        webhooks,
    ):
        app.include_router(module.router, responses=problems.problem_answers(*_OF_ALL_CALLS, *_OF_CALLS_WITH_KEYS))
    for module in (schemas, health):
        app.include_router(module.router, responses=problems.problem_answers(*_OF_ALL_CALLS))
    for module in (
        jobs_page,
        job,
        job_edit,
        job_actions,
        recognised,
        new_job,
        certify,
        stored_page,
        usage_page,
        compare,
        signing_in,
        api_reference,
        assets,
    ):
        app.include_router(module.router)
    complete_openapi(app, with_keys=settings.auth == "keys")
    return app


def _telemetry() -> TelemetryConfig:
    """FastAPI's own spans of requests, on the provider of `app.tracing`; metrics and logs have a way of their own."""
    return {
        "tracer_provider": tracer_provider(),
        "auto_configure": False,
        "operation_spans": False,
        "metrics": False,
        "logs": False,
        "exclude": lambda scope: scope.get("path") in UNTRACED,
    }

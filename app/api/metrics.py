"""What Prometheus sees: requests by route, and the state of the queue at the moment of the scrape."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from sqlalchemy.exc import SQLAlchemyError
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.problems import METHODS
from app.lifecycle.states import JobState
from app.services.health import condition
from app.store.engine import Sessions

logger = logging.getLogger(__name__)


class Metrics:
    """The metrics of one application; each has its own registry, so that several may live in one process."""

    def __init__(self, sessions: Sessions) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "bitbudget_http_requests", "HTTP requests", ["method", "route", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "bitbudget_http_request_seconds",
            "Time from a request to the end of its answer",
            ["method", "route"],
            registry=self.registry,
        )
        self.registry.register(_Queue(sessions))


class _Queue(Collector):
    """Asks the database when it is scraped: several API processes then agree, and none keeps count."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    def describe(self) -> Iterator[Metric]:
        # Without it the registry would collect, and so ask the database, when the collector is registered.
        return iter(())

    def collect(self) -> Iterator[Metric]:
        try:
            now = condition(self._sessions)
        except SQLAlchemyError:
            logger.exception("the database does not answer a scrape")
            yield GaugeMetricFamily("bitbudget_database_up", "1 if the database answers", value=0)
            return
        yield GaugeMetricFamily("bitbudget_database_up", "1 if the database answers", value=1)
        jobs = GaugeMetricFamily("bitbudget_jobs", "Jobs by state", labels=["state"])
        for state in JobState:
            jobs.add_metric([state], now.jobs_by_state.get(state, 0))
        yield jobs
        yield GaugeMetricFamily("bitbudget_workers", "Workers that are alive", value=now.workers)
        yield GaugeMetricFamily(
            "bitbudget_oldest_queued_job_seconds",
            "Waiting time of the oldest queued job",
            value=now.oldest_queued_seconds or 0.0,
        )


class MeasureRequests:
    """ASGI middleware that counts and times requests by the route that answered, not by the address with its ids."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 500
        began = time.perf_counter()

        async def observed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, observed)
        finally:
            route = getattr(scope.get("route"), "path", "none")
            # Methods are free text; only known ones become labels, or a scanner would fill the memory with series.
            method = scope["method"] if scope["method"] in METHODS else "other"
            self._metrics.requests.labels(method, route, str(status)).inc()
            seconds = time.perf_counter() - began
            self._metrics.seconds.labels(method, route).observe(seconds)
            _log_request(scope, status, seconds)


def _log_request(scope: Scope, status: int, seconds: float) -> None:
    """One line for the request, where the level asks for it: a line for each poll of each client buries the others."""
    if not logger.isEnabledFor(logging.DEBUG):
        return
    client = (scope.get("client") or ("",))[0]
    # Without the query: it holds names that clients gave.
    fields = {
        "client": client,
        "method": scope["method"],
        "path": scope["path"],
        "status": status,
        "milliseconds": round(1000 * seconds, 1),
    }
    line = "%s %s %r: %d in %.1f ms"
    logger.debug(line, client, scope["method"], scope["path"], status, 1000 * seconds, extra={"fields": fields})

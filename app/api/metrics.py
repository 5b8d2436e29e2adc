"""What Prometheus sees: requests by route, and what the database says at the moment of the scrape."""

from __future__ import annotations

import logging
import time

from prometheus_client import CollectorRegistry, Counter, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.figures import StoredFigures
from app.api.problems import METHODS
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
        self.registry.register(StoredFigures(sessions))


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

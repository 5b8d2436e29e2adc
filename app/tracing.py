"""Traces for OpenTelemetry (the extra `otel`): spans of what this process does, sent to the collector that the
standard variables (`OTEL_EXPORTER_OTLP_ENDPOINT` and the like) name.

Without such a variable nothing is imported here, and every span is the same empty object.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
    from opentelemetry.trace import Span as OtelSpan

logger = logging.getLogger(__name__)

FLUSH_SECONDS = 2.0
"""How long the end of a process waits for a collector that does not answer."""

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")

_provider: TracerProvider | None = None


class Span:
    """A span that has begun; ended by `end`. The base class stands for none, where nothing is traced."""

    @property
    def traceparent(self) -> str | None:
        """The span as the parent of others (W3C Trace Context), also in other processes; None: nothing is traced."""
        return None

    def set(self, **attributes: Any) -> None:
        """Add attributes, `bitbudget.NAME` each; None adds nothing."""

    def end(self, error: str | None = None) -> None:
        """End the span. `error` marks it as failed: a code, no text that quotes a file."""


class _Recorded(Span):
    def __init__(self, span: OtelSpan) -> None:
        self._span = span

    @property
    def traceparent(self) -> str | None:
        return _traceparent(self._span)

    def set(self, **attributes: Any) -> None:
        for name, value in attributes.items():
            if value is not None:
                self._span.set_attribute(f"bitbudget.{name}", value)

    def end(self, error: str | None = None) -> None:
        if error is not None:
            from opentelemetry.trace import Status, StatusCode

            self._span.set_status(Status(StatusCode.ERROR, error))
            self._span.set_attribute("error.type", error)
        self._span.end()


NO_SPAN = Span()


def configure_tracing(role: str) -> None:
    """Send spans from now on, if the environment names a collector.

    Args:
        role: of this process, the service's name in traces after `bitbudget-`; `OTEL_SERVICE_NAME` has the last word.
    """
    if not _is_wanted(os.environ):
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        logger.error(
            "%s is set, but what sends traces is not installed; nothing is traced. Install it: pip install "
            "'bitbudget[otel]'",
            next(name for name in _ENDPOINTS if name in os.environ),
        )
        return
    trace_with(BatchSpanProcessor(OTLPSpanExporter()), role)
    logger.info("spans are sent over OTLP")


def trace_with(processor: SpanProcessor, role: str) -> None:
    """Give every span from now on to `processor`."""
    global _provider
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider

    named = {} if os.environ.get("OTEL_SERVICE_NAME") else {"service.name": f"bitbudget-{role}"}
    _provider = TracerProvider(resource=Resource.create(named))
    _provider.add_span_processor(processor)


def stop_tracing() -> None:
    """Send what is left, within seconds, and trace nothing more. For a process that ends without its exit handlers."""
    global _provider
    if _provider is not None:
        _provider.force_flush(int(FLUSH_SECONDS * 1000))
        _provider = None


def tracer_provider() -> TracerProvider | None:
    """Where this process records its spans; None: nowhere."""
    return _provider


def begin(name: str, parent: str | None = None, began_ns: int | None = None, **attributes: Any) -> Span:
    """Begin a span that this process ends later.

    Args:
        parent: a `traceparent`; None, or none that is valid: the span that is current here, or none.
        began_ns: when it began, in nanoseconds since 1970; None: now.
        attributes: as `Span.set`.
    """
    if _provider is None:
        return NO_SPAN
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    context = None if parent is None else TraceContextTextMapPropagator().extract({"traceparent": parent})
    span = _Recorded(_provider.get_tracer("bitbudget").start_span(name, context, start_time=began_ns))
    span.set(**attributes)
    return span


@contextmanager
def span(name: str, parent: str | None = None, **attributes: Any) -> Iterator[Span]:
    """A span around the block; an exception out of it fails the span, by the name of its class.

    Args:
        parent: as in `begin`.
    """
    begun = begin(name, parent, **attributes)
    try:
        yield begun
    except BaseException as error:
        begun.end(type(error).__name__)
        raise
    begun.end()


def traceparent() -> str | None:
    """The `traceparent` of the request that this thread or task answers; None: nothing is traced."""
    # FastAPI imports the API of OpenTelemetry; a process without FastAPI has no such span and does not load it.
    if _provider is None or "opentelemetry.trace" not in sys.modules:
        return None
    from opentelemetry.trace import get_current_span

    return _traceparent(get_current_span())


def _traceparent(span: OtelSpan) -> str | None:
    context = span.get_span_context()
    if not context.is_valid:
        return None
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def _is_wanted(environment: os._Environ[str]) -> bool:
    if environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    if environment.get("OTEL_TRACES_EXPORTER", "otlp").strip().lower() == "none":
        return False
    return any(environment.get(name) for name in _ENDPOINTS)

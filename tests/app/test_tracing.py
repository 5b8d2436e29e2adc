from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from app import tracing
from app.store.engine import Sessions
from app.store.jobs import find_job

CALLER = f"00-{'4b' * 16}-{'00f0' * 4}-01"


@pytest.fixture
def spans() -> Iterator[Callable[[], dict[str, ReadableSpan]]]:
    """The spans that have ended, by name."""
    exporter = InMemorySpanExporter()
    tracing.trace_with(SimpleSpanProcessor(exporter), "api")
    yield lambda: {span.name: span for span in exporter.get_finished_spans()}
    tracing.stop_tracing()


def test_without_a_collector_a_span_is_nothing() -> None:
    with tracing.span("stage", CALLER, stage="admit") as span:
        assert span is tracing.NO_SPAN
        assert span.traceparent is None
        assert tracing.traceparent() is None
    span.set(stage="plan")
    span.end("internal")


def test_a_span_has_its_parent_its_attributes_and_its_failure(spans: Callable[[], dict[str, ReadableSpan]]) -> None:
    with tracing.span("job", CALLER, job_id="a", attempt=2, nothing=None) as job:
        stage = tracing.begin("stage", job.traceparent)
        stage.end("out_of_memory")
    with pytest.raises(KeyError), tracing.span("broken", "no traceparent"):
        raise KeyError("/secret/path")
    ended = spans()
    parent = ended["job"].parent
    assert parent is not None
    assert (f"{parent.trace_id:032x}", f"{parent.span_id:016x}") == (CALLER.split("-")[1], CALLER.split("-")[2])
    assert ended["job"].attributes == {"bitbudget.job_id": "a", "bitbudget.attempt": 2}
    assert ended["job"].status.status_code is StatusCode.UNSET
    assert ended["stage"].parent is not None
    assert ended["job"].context is not None
    assert ended["stage"].parent.span_id == ended["job"].context.span_id
    assert ended["stage"].status.status_code is StatusCode.ERROR
    assert ended["broken"].parent is None
    assert ended["broken"].attributes == {"error.type": "KeyError"}
    assert not ended["broken"].events
    assert ended["job"].resource.attributes["service.name"] == "bitbudget-api"


def test_a_job_keeps_the_trace_of_the_request_that_made_it(
    spans: Callable[[], dict[str, ReadableSpan]], serve: Callable[..., Any], sessions: Sessions
) -> None:
    server = serve()
    model_id = server.upload_model()
    made = server.client.post("/v1/jobs", json={"model_id": model_id}, headers={"traceparent": CALLER})
    assert made.status_code == 202, made.text
    server.client.get("/healthz")  # on the same connection: the request before it is over
    request = spans()["POST /v1/jobs"]
    with sessions.read() as session:
        job = find_job(session, made.json()["id"])
    assert job is not None
    assert request.context is not None
    assert job.trace == f"00-{'4b' * 16}-{request.context.span_id:016x}-01"
    assert request.parent is not None
    assert f"{request.parent.span_id:016x}" == CALLER.split("-")[2]
    assert request.attributes is not None
    assert request.attributes["http.response.status_code"] == 202
    assert not [name for name in spans() if "healthz" in name]


def test_a_job_made_without_a_collector_has_no_trace(server: Any, sessions: Sessions) -> None:
    job_id = server.submit()["id"]
    with sessions.read() as session:
        job = find_job(session, job_id)
    assert job is not None
    assert job.trace is None


@pytest.mark.parametrize(
    ("environment", "wanted"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:9/v1/traces"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_SDK_DISABLED": "true"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_TRACES_EXPORTER": "none"}, False),
    ],
)
def test_the_standard_variables_decide(
    environment: dict[str, str], wanted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    given = []
    monkeypatch.setattr(tracing, "trace_with", lambda processor, role: given.append((processor, role)))
    tracing.configure_tracing("worker")
    assert [role for _, role in given] == (["worker"] if wanted else [])
    for processor, _ in given:
        processor.shutdown()


def test_a_collector_without_the_extra_is_said_and_traces_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with caplog.at_level(logging.ERROR):
        tracing.configure_tracing("api")
    assert "pip install 'bitbudget[otel]'" in caplog.text
    assert tracing.tracer_provider() is None

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from app import tracing
from pipeline.events import StageBegan, StageEnded
from workers.spans import JobSpans

CALLER = f"00-{'4b' * 16}-{'00f0' * 4}-01"
MINUTE = timedelta(minutes=1)


@pytest.fixture
def ended() -> Iterator[Callable[[], list[ReadableSpan]]]:
    exporter = InMemorySpanExporter()
    tracing.trace_with(SimpleSpanProcessor(exporter), "worker")
    yield lambda: list(exporter.get_finished_spans())
    tracing.stop_tracing()


def _tree(spans: list[ReadableSpan]) -> dict[str, str]:
    """Name of each span to that of its parent."""
    names = {f"{span.context.span_id:016x}": span.name for span in spans if span.context is not None}
    names[CALLER.split("-")[2]] = "the request"
    return {span.name: names[f"{span.parent.span_id:016x}"] for span in spans if span.parent is not None}


def test_an_attempt_holds_its_stages_and_they_their_chunks(ended: Callable[[], list[ReadableSpan]]) -> None:
    spans = JobSpans("attempt", CALLER, job_id="a", project_id="team", attempt=2)
    spans.event(StageEnded("admit", ran=False))
    spans.event(StageBegan("plan", MINUTE))
    spans.taken("key/of another worker")
    spans.taken("key/chunk")
    spans.stored("key/chunk")
    spans.stored("key/of nobody")
    spans.event(StageEnded("plan", ran=True))
    spans.end(None)
    assert _tree(ended()) == {"chunk": "stage plan", "stage plan": "attempt", "attempt": "the request"}
    assert [span.name for span in ended()] == ["chunk", "stage plan", "attempt"]
    attempt = ended()[-1]
    assert attempt.attributes == {"bitbudget.job_id": "a", "bitbudget.project_id": "team", "bitbudget.attempt": 2}
    assert attempt.context is not None
    assert f"{attempt.context.trace_id:032x}" == "4b" * 16


def test_what_is_open_when_an_attempt_fails_fails_with_it(ended: Callable[[], list[ReadableSpan]]) -> None:
    spans = JobSpans("help", CALLER)
    spans.event(StageBegan("plan", MINUTE))
    spans.taken("key")
    spans.end("time_limit")
    assert {span.name: (span.attributes or {}).get("error.type") for span in ended()} == {
        "stage plan": "time_limit",
        "help": "time_limit",
    }


def test_without_a_collector_nothing_is_kept() -> None:
    spans = JobSpans("attempt", CALLER, job_id="a", project_id="team", attempt=2)
    spans.event(StageBegan("plan", MINUTE))
    spans.taken("key")
    assert spans.traceparent is None
    assert not spans._began_ns
    spans.end(None)

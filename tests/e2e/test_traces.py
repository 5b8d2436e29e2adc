"""A job seen from outside: its spans at a collector, its log by API, its stages in the metrics, JSON in the logs."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

CALLER = f"00-{'4b' * 16}-{'00f0' * 4}-01"


class Collector:
    """Takes traces over OTLP/HTTP."""

    def __init__(self) -> None:
        self.spans = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                assert self.path == "/v1/traces"
                for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                    name = next(a.value.string_value for a in resource.resource.attributes if a.key == "service.name")
                    for scope in resource.scope_spans:
                        collector.spans += [(name, span) for span in scope.spans]
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_):
                """Not into the tests' output."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self._thread = threading.Thread(target=self.server.serve_forever)
        self._thread.start()

    def names(self):
        return [span.name for _, span in self.spans]

    def parents(self):
        """(service, span) to the name of the parent, for every span of the caller's trace."""
        ours = [(service, span) for service, span in self.spans if span.trace_id.hex() == "4b" * 16]
        names = {span.span_id: span.name for _, span in ours} | {bytes.fromhex("00f0" * 4): "the caller"}
        return {(service, span.name): names[span.parent_span_id] for service, span in ours}

    def close(self) -> None:
        self.server.shutdown()
        self._thread.join()
        self.server.server_close()


@pytest.fixture
def collector() -> Iterator[Collector]:
    collector = Collector()
    yield collector
    collector.close()


def test_a_job_can_be_followed_from_the_request_to_its_chunks(commands, serve, collector, fake_model, wait_until):
    commands.environment |= {
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_BSP_SCHEDULE_DELAY": "50",
        "BITBUDGET_LOG_FORMAT": "json",
    }
    server = serve()
    files = {"model": fake_model.write().read_bytes()}
    made = server.http.post("/v1/jobs", files=files, headers={"traceparent": CALLER})
    assert made.status_code == 202, made.text
    job_id = made.json()["id"]
    wait_until(lambda: server.job(job_id)["state"] not in ("queued", "running"))
    assert server.job(job_id)["state"] == "succeeded"
    wait_until(lambda: "attempt" in collector.names() and "POST /v1/jobs" in collector.names())
    parents = collector.parents()
    stages = {name: parent for (_, name), parent in parents.items() if name.startswith("stage ")}
    assert stages == dict.fromkeys(("stage admit", "stage squares", "stage total", "stage certify"), "attempt")
    assert parents["bitbudget-api", "POST /v1/jobs"] == "the caller"
    assert parents["bitbudget-worker", "attempt"] == "POST /v1/jobs"
    assert parents["bitbudget-worker", "chunk"] == "stage squares"
    assert collector.names().count("chunk") == 4

    def texts_of_the_log():
        lines = server.http.get(f"/v1/jobs/{job_id}/log").text.splitlines()
        return [json.loads(line)["text"] for line in lines]

    wait_until(lambda: "finished" in texts_of_the_log())  # written once a second, and at the end
    texts = texts_of_the_log()
    assert 'bitbudget_stage_seconds_count{stage="certify"} 1.0' in server.http.get("/metrics").text
    assert (texts[0], texts[-1]) == ("attempt 1", "finished")
    assert [text.partition(" is done")[0] for text in texts if " is done after " in text] == list(stages)
    assert str(commands.home) not in "".join(texts)

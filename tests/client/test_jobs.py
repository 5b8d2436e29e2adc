"""From a question to a result: what is asked, what is shown meanwhile, what comes back."""

from __future__ import annotations

import json

import httpx
import pytest

from bitbudget_client import JobCancelled, JobFailed, Problem, Upload
from tests.client.conftest import Broken, Driver, job_document

MODEL = Upload({"id": "a" * 64, "name": "net", "tags": [], "size_bytes": 1})
CERTIFICATE = {
    "metric": "top1",
    "float_value": 0.98,
    "quantized_value": 0.975,
    "drop": 0.005,
    "low": -0.001,
    "high": 0.011,
    "level": 0.95,
    "max_drop": 0.01,
    "samples": 360,
    "met": True,
    "statement": "<b>kept</b>",
}
PLAN = {
    "outcome": "met",
    "reason": None,
    "float_size_bytes": 4000,
    "size_bytes": 1000,
    "certificate": CERTIFICATE,
    "load": {"predicted_ms": 31.5, "base_ms": 2.0, "float_ms": 6.0},
    "layers": [
        {"name": "<script>", "format": "coded2.3/tensor", "bits": 2.3, "weights": 1500, "bytes": 800, "damage": 1e-3}
        | {"load_ms": 12.5, "sparsity": 0.25},
        {"name": "fc", "format": "float32", "bits": 32, "weights": 10, "bytes": 40, "damage": None},
    ],
}
POINT = {"predicted_damage": 0.1, "bits": {"fc": 4}, "measured": None, "chosen": False}
FRONTIER = {"points": [POINT | {"cost": 2}, POINT | {"cost": 1, "measured": {"drop": 0.5}, "chosen": True}]}


class Service:
    """Takes jobs, which go through `states`."""

    def __init__(self, *states: dict) -> None:
        self.states = list(states)
        self.posted: list[tuple[str, dict]] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path
        if request.method == "POST":
            self.posted.append((path, json.loads(request.content)))
            return httpx.Response(202, json=job_document())
        documents = {
            "plan": PLAN,
            "frontier": FRONTIER,
            "certificate": {**PLAN, "findings": [], "certificate": CERTIFICATE},
        }
        if path.rsplit("/", 1)[1] in documents:
            return httpx.Response(200, json=documents[path.rsplit("/", 1)[1]])
        state = self.states[0] if len(self.states) == 1 else self.states.pop(0)
        return httpx.Response(200, json=job_document(**state))


def test_a_plan_is_asked_for_waited_for_and_understood(driver: Driver) -> None:
    seen = []
    service = Service({"state": "running", "stage": "plan", "progress": 0.5}, {"state": "succeeded", "outcome": "met"})
    result = driver.run(
        service,
        lambda client: client.plan(
            MODEL,
            Upload({"id": "b" * 64}),
            max_drop=0.02,
            request={"budget": {"metric": "top1", "max_drop": 1}, "seed": 3},
            metric_graph=Upload({"id": "c" * 64}),
            tags=("x",),
            progress=lambda job: seen.append((job.state, job.progress)),
        ),
    )
    body = {
        "budget": {"metric": "top1", "max_drop": 0.02, "metric_id": "c" * 64},
        "seed": 3,
        "tags": ["x"],
        "model_id": "a" * 64,
        "dataset_id": "b" * 64,
    }
    assert service.posted == [("/v1/jobs", body)]
    assert seen == [("running", 0.5), ("succeeded", 0.0)]
    assert result.met
    assert result.times_smaller == 4.0
    assert [(layer.name, layer.bits, layer.damage) for layer in result.layers] == [
        ("<script>", 2.3, 1e-3),
        ("fc", 32, None),
    ]
    assert [(layer.load_ms, layer.sparsity) for layer in result.layers] == [(12.5, 0.25), (None, None)]
    assert result.load_ms == 31.5
    assert [(point.cost, point.measured_drop, point.chosen) for point in result.frontier] == [
        (1.0, 0.5, True),
        (2.0, None, False),
    ]
    assert result.certificate.interval == (-0.001, 0.011)
    assert "4,000 to 1,000 bytes, 4.0 times smaller; top1 0.98 to 0.975, drop +0.0050" in repr(result)


def test_a_result_in_a_notebook_is_escaped(driver: Driver) -> None:
    page = driver.run(
        Service({"state": "succeeded", "outcome": "met"}), lambda client: client.result("x")
    )._repr_html_()
    assert "&lt;script&gt;" in page
    assert "&lt;b&gt;kept" in page
    assert "<script" not in page
    assert "the budget is met" in page


def test_another_question_and_a_certificate_go_to_their_calls(driver: Driver) -> None:
    service = Service({"state": "succeeded", "outcome": "met"})
    driver.run(service, lambda client: client.replan("x", max_drop=0.5, request={"seed": None}, progress=False))
    driver.run(service, lambda client: client.certify(MODEL, Upload({"id": "d" * 64}), progress=False))
    assert service.posted == [
        ("/v1/jobs/x/replan", {"budget": {"max_drop": 0.5}, "seed": None}),
        ("/v1/certificates", {"model_id": "a" * 64, "quantized_id": "d" * 64}),
    ]


def test_an_argument_that_there_is_not_is_refused_before_anything_is_sent(driver: Driver) -> None:
    service = Service()
    with pytest.raises(TypeError, match=r"no argument maxdrop; expected max_drop, metric"):
        driver.run(service, lambda client: client.plan(b"model", maxdrop=0.1))
    assert service.posted == []


def test_how_a_job_ended_without_a_result_is_an_exception(driver: Driver) -> None:
    error = {"status": 422, "code": "model_invalid", "title": "t", "detail": "d"}
    with pytest.raises(JobFailed, match="model_invalid") as raised:
        driver.run(Service({"state": "failed", "error": error}), lambda client: client.plan(MODEL, progress=False))
    assert raised.value.job.state == "failed"
    with pytest.raises(JobCancelled):
        driver.run(Service({"state": "cancelled"}), lambda client: client.plan(MODEL, progress=False))


def test_lists_are_read_page_by_page(driver: Driver) -> None:
    asked = []

    def handler(request: httpx.Request) -> httpx.Response:
        asked.append(dict(request.url.params))
        following = "two" if "cursor" not in request.url.params else None
        rows = [job_document(id=str(len(asked)))]
        return httpx.Response(200, json={"jobs": rows, "uploads": [MODEL.document], "next_cursor": following})

    jobs = driver.run(handler, lambda client: client.jobs(state="failed"))
    assert [job.id for job in jobs] == ["1", "2"]
    assert asked == [{"state": "failed"}, {"state": "failed", "cursor": "two"}]
    assert len(driver.run(handler, lambda client: client.models())) == 2


def test_events_go_on_after_a_cut_and_end_with_the_job(driver: Driver) -> None:
    after = []

    def handler(request: httpx.Request) -> httpx.Response:
        if not request.url.path.endswith("/events"):
            return httpx.Response(200, json=job_document(finished_at="2026-01-01T00:00:00Z"))
        after.append(request.headers["last-event-id"])
        if len(after) == 1:
            begun = b': here\n\nid: 1\nevent: stage\ndata: {"stage": "plan"}\n\nevent: progress\ndata: {}\n\nid: 2\neve'
            return httpx.Response(200, stream=Broken(begun))
        return httpx.Response(200, content=b'id: 2\nevent: state\ndata: {"state": "succeeded"}\n\n')

    events = driver.run(handler, lambda client: client.events("x"))
    assert [(event.kind, event.number, event.data) for event in events] == [
        ("stage", 1, {"stage": "plan"}),
        ("progress", None, {}),
        ("state", 2, {"state": "succeeded"}),
    ]
    assert after == ["0", "1"]


def test_a_stream_that_ends_before_its_job_is_opened_again_after_a_pause(driver: Driver) -> None:
    ends = [None, None, "2026-01-01T00:00:00Z"]

    def handler(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/events"):
            return httpx.Response(200)
        return httpx.Response(200, json=job_document(finished_at=ends.pop(0)))

    assert driver.run(handler, lambda client: client.events("x")) == []
    assert driver.pauses == [0.5, 0.5]


def test_a_stream_that_leads_elsewhere_is_told(driver: Driver) -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        return httpx.Response(302, headers={"Location": "https://other.test/"}, text="<h1>moved</h1>")

    with pytest.raises(Problem, match=r"leads to .https://other\.test/"):
        driver.run(handler, lambda client: client.events("x"))

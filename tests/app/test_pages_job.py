"""The page of a job in each of its states, without a browser; and what it sends while the job runs."""

from __future__ import annotations

import asyncio
import json
import re
from datetime import timedelta
from typing import Any

import pytest

from app.api import events
from app.lifecycle import claims
from app.lifecycle.states import Artifact, Estimate, Outcome, Progress
from app.pages import job as job_page
from app.pages.job_live import MEANINGS, Live, stages_of
from app.pages.rendering import part
from app.services import plan_edits
from app.store.blobs import write_bytes
from app.store.tables import JobEventRow, JobRow
from pipeline.table import STAGES
from tests.app.claiming import claim_job
from tests.app.finishing import LEASE, finished

HOSTILE = "<script>alert(1)</script>"
HTML = {"Accept": "text/html"}
CLAIM = {
    "metric": "top1", "outputs": [HOSTILE], "reason": "as requested", "unit": "share", "part": "", "float_value": 0.9,
    "quantized_value": 0.89, "drop": 0.01, "low": 0.0, "high": 0.02, "max_drop": 0.02, "met": True, "parts": 1,
    "worst": [], "null": {"mean": 0.8}, "options": {},
}  # fmt: skip
CERTIFICATE = {
    **CLAIM, "kind": "absolute", "confidence": None, "statement": f"Measured. {HOSTILE}", "claims": [CLAIM],
    "blind_to": [{"null": HOSTILE, "drop": 0.0}], "samples": 9, "synthetic": False,
}  # fmt: skip


def _layer(name: str, format_: str, bits: int) -> dict[str, Any]:
    return {
        "name": name, "op_type": "Conv", "weight": f"{name}.w", "nodes": [name], "weights": 100, "format": format_,
        "bits": bits, "input_bits": 32, "bytes": 100 * bits // 8, "bit_operations": 5, "damage": 0.1 / bits,
        "damage_stderr": None, "rounded_with": None, "note": None, "load_ms": 40 / bits, "sparsity": bits / 100,
    }  # fmt: skip


PLAN = {
    "version": 1, "outcome": "met", "reason": None, "float_size_bytes": 1000, "size_bytes": 250,
    "certificate": CERTIFICATE, "latency": None, "activations": [],
    "load": {"predicted_ms": 12.5, "base_ms": 1.0, "float_ms": 3.25},
    "stays_float": {"bytes": 8, "share": 0.01, "tensors": [{"name": HOSTILE, "bytes": 8, "reason": HOSTILE}]},
    "layers": [_layer("conv1", "int8/channel", 8), _layer(HOSTILE, "int4/channel", 4), _layer("fc", "float32", 32)],
    "search": {"evaluated": [{"size_bytes": 250, "drop": 0.01, "fraction": 1.0, "meets_budget": True}]},
}  # fmt: skip
FORMATS = {row["name"]: row["format"] for row in PLAN["layers"]}
BITS = {row["name"]: row["bits"] for row in PLAN["layers"]}
POINT = {"cost": 250.0, "predicted_damage": 0.1, "measured": None, "chosen": True, "formats": FORMATS, "bits": BITS}
FRONTIER = {"cost": "size", "unit": "bytes", "points": [POINT]}
SENSITIVITY = {
    "sites": [
        {"name": name, "candidates": [{"format": "int2/channel", "size_bytes": 25, "damage": 0.5, "interaction": 0.0}]}
        for name in FORMATS
    ],
    "interactions": {"matrix": [[0.0] * 3] * 3},
}


def page(server: Any, address: str) -> str:
    answer = server.client.get(address, headers=HTML)
    assert answer.status_code == 200, answer.text
    assert HOSTILE not in answer.text
    text: str = answer.text
    return text


def succeeded(server: Any, **members: Any) -> str:
    documents = {"plan": PLAN, "frontier": FRONTIER, "sensitivity": SENSITIVITY}
    stored = {kind: json.dumps(document).encode() for kind, document in documents.items()}
    return finished(server, members, model=b"x" * 250, **stored)


def _measured(size_bytes: int, drop: float) -> dict[str, Any]:
    return {
        "cost": size_bytes, "predicted_damage": drop, "size_bytes": size_bytes, "drop": drop, "fraction": 0.5,
        "within": drop < 0.01,
    }  # fmt: skip


def run_a_little(server: Any, job_id: str) -> Any:
    """The job's claim, with two stages begun and two plans measured."""
    claim = claim_job(server.sessions, job_id, "worker", LEASE)
    assert claim is not None
    for stage, done in (("admit", 0.1), ("plan", 0.7)):
        claims.heartbeat(server.sessions, claim, LEASE, Progress(stage, done, 12.0))
    for size_bytes, drop in ((400, 0.001), (300, 0.05)):
        claims.record_event(server.sessions, claim, "evaluated", _measured(size_bytes, drop))
    return claim


def frames(text: str) -> list[tuple[str, str]]:
    """Kind and data of the events in a stream."""
    found = re.findall(r"event: (\w+)\n((?:data: .*\n)+)", text)
    return [(kind, "\n".join(line.removeprefix("data: ") for line in data.splitlines())) for kind, data in found]


def test_a_waiting_job_says_so_and_can_be_cancelled(server):
    job = server.submit(name=HOSTILE, tags=[HOSTILE])["id"]
    text = page(server, f"/jobs/{job}")
    assert "Waits for a worker" in text
    assert f'sse-connect="/jobs/{job}/live"' in text
    answer = server.client.post(f"/jobs/{job}/cancel", headers=HTML)
    assert (answer.status_code, answer.headers["location"]) == (303, f"/jobs/{job}")
    text = page(server, f"/jobs/{job}")
    assert "The job was cancelled" in text
    assert "sse-connect" not in text


def test_a_running_job_shows_how_far_it_is(server):
    job = server.submit(budget={"max_drop": 0.01})["id"]
    claim = run_a_little(server, job)
    claims.record_estimate(server.sessions, claim, Estimate("job", 90.0, 3_000_000, 30.5))
    text = page(server, f"/jobs/{job}")
    assert re.search(r"<dt>Estimate</dt><dd>1 min 30 s, 3(\.0+)? MB of memory at most</dd>", text)
    assert "70 % done, about 12 s left" in text
    assert '<progress value="0.7"' in text
    assert '<li class="running" aria-current="step">' in text
    assert text.count('<li class="waiting"') == 1  # certify
    assert text.count("nothing left to do") == 8
    assert text.count("<circle") == 2
    assert text.count('class="over"') == 1
    assert "5.00 points" in text


def test_the_stream_sends_the_whole_part_each_time_and_ends_with_the_job(server, monkeypatch):
    monkeypatch.setattr(events, "POLL_SECONDS", 0.02)
    job = server.submit(budget={"max_drop": 0.01})["id"]
    claim = run_a_little(server, job)
    shown = []
    with server.client.stream("GET", f"/jobs/{job}/live", headers={"Last-Event-ID": "3"}) as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        text = ""
        for piece in stream.iter_text():
            text += piece
            if not shown and frames(text):
                shown = frames(text)
                claims.fail(server.sessions, claim, "model_invalid", HOSTILE)
    everything = frames(text)
    assert [kind for kind, _ in everything[-2:]] == ["live", "ended"]
    assert HOSTILE not in text
    # whoever connects, again or not, gets all plans once
    for _, html in (shown[0], everything[-2]):
        assert html.count("<circle") == 2
        assert html.count("<progress") == 1


def test_of_many_measured_plans_the_last_are_shown_by_their_numbers(new_job):
    job = new_job()
    live = Live()
    live.add([JobEventRow(kind="evaluated", data=_measured(number, 0.001)) for number in range(5000)])
    html = part("job_live.html", live=live.view(job, job.created_at))
    assert "The last 200 of 5,000." in html
    assert html.count("<circle") == 200
    assert re.findall(r"<tr><td>(\d+)</td>", html)[::199] == ["4801", "5000"]


def test_other_calls_are_answered_while_a_part_is_made(server, monkeypatch):
    def made(*_: Any, **__: Any) -> str:
        with pytest.raises(RuntimeError, match="no running event loop"):
            asyncio.get_running_loop()
        return "made"

    monkeypatch.setattr(job_page, "part", made)
    job = server.submit()["id"]
    assert server.client.post(f"/v1/jobs/{job}/cancel").status_code == 202
    assert frames(server.client.get(f"/jobs/{job}/live").text) == [("live", "made"), ("ended", "")]


def test_a_failed_job_says_what_to_do_and_shows_its_log(server):
    job = server.submit()["id"]
    claim = claim_job(server.sessions, job, "worker", LEASE)
    claims.fail(server.sessions, claim, "layers_unknown", f"layers names {HOSTILE}; it has conv1")
    text = page(server, f"/jobs/{job}")
    assert "The request names layers that the model does not have." in text
    assert "it has conv1" in text
    assert "layers_unknown" in text


def test_a_result_is_shown_with_all_that_it_gives(server):
    job = succeeded(server)
    text = page(server, f"/jobs/{job}")
    for words in (
        "1,000 -&gt; 250 bytes (4.0 times smaller), top1 0.9000 -&gt; 0.8900, budget met",
        "&lt;script&gt;",
        'class="interval"',
        "1 constants, and why",
        "Loading takes 12.5 ms as predicted for a reference machine, and 3.25 ms for the float network.",
        '<td class="right">10</td>\n    <td class="right">4.0 %</td>',
        "1 plans were measured",
        "Apply point 0",
        "onnxruntime.InferenceSession",
    ):
        assert words in text, words
    for address in ("model.onnx", "plan", "frontier", "sensitivity", "plan?format=csv", "plan?format=table"):
        assert f'href="/v1/jobs/{job}/{address}"' in text
        assert server.client.get(f"/v1/jobs/{job}/{address}").status_code == 200
    assert "250 bytes, the quantized network" in text
    assert f'<img src="/v1/jobs/{job}/charts/frontier.svg"' in text
    assert f'srcset="/v1/jobs/{job}/charts/frontier.svg?theme=dark"' in text


def test_only_charts_that_can_be_drawn_are_shown(server):
    applied = {"base": "float32", "layers": {"conv1": "int8/channel"}}
    job = finished(server, {"plan": applied}, plan=json.dumps({**PLAN, "search": None}).encode())
    text = page(server, f"/jobs/{job}")
    assert "charts/frontier" not in text
    assert "Apply point" not in text
    assert "Deadline" not in text


def test_a_plan_of_an_older_version_tells_no_load_and_no_zeros(server):
    layers = [{name: row[name] for name in row if name not in ("load_ms", "sparsity")} for row in PLAN["layers"]]
    older = {name: PLAN[name] for name in PLAN if name != "load"} | {"layers": layers, "search": None}
    job = finished(server, {"plan": {"base": "float32", "layers": {"a": "float32"}}}, plan=json.dumps(older).encode())
    text = page(server, f"/jobs/{job}?sort=sparsity")
    assert "Loading takes" not in text
    assert '<td class="right">–</td>\n    <td class="right">–</td>' in text


def test_layers_are_sorted_by_the_server(server):
    job = succeeded(server)

    def order(query: str) -> list[str]:
        return re.findall(r"<code>(int\d/channel|float32)</code>", page(server, f"/jobs/{job}{query}"))

    assert order("") == ["int8/channel", "int4/channel", "float32"]
    assert order("?sort=bits") == ["int4/channel", "int8/channel", "float32"]
    assert order("?sort=bits&down=true") == ["float32", "int8/channel", "int4/channel"]
    assert order("?sort=sparsity") == order("?sort=bits") == order("?sort=load_ms&down=true")
    assert order("?sort=__class__") == order("")
    assert 'aria-sort="descending"' in page(server, f"/jobs/{job}?sort=bits&down=true")


def test_another_budget_and_a_point_of_the_frontier_are_asked_for_by_forms(server):
    job = succeeded(server)
    answer = server.client.post(f"/jobs/{job}/replan", data={"max_drop": "0.05", "confidence": ""}, headers=HTML)
    assert answer.status_code == 303, answer.text
    child = server.client.get("/v1" + answer.headers["location"]).json()
    assert (child["parent_id"], child["request"]["budget"]["max_drop"]) == (job, 0.05)
    text = page(server, answer.headers["location"])
    assert f'href="/jobs/{job}"' in text
    answer = server.client.post(f"/jobs/{job}/replan", data={"frontier_point": "0"}, headers=HTML)
    applied = server.client.get("/v1" + answer.headers["location"]).json()["request"]["plan"]
    assert {row["name"]: row["format"] for row in applied["layers"]} == FORMATS
    refused = server.client.post(f"/jobs/{job}/replan", data={"max_drop": "5"}, headers=HTML)
    assert refused.status_code == 422
    assert "max_drop" in refused.text


def test_an_empty_deadline_is_none_and_the_field_shows_that_of_the_job(server):
    job = succeeded(server, search={"deadline_seconds": 90.0})
    assert 'name="deadline_seconds" inputmode="decimal" value="90.0"' in page(server, f"/jobs/{job}")
    for text, expected in (("", None), ("30", 30.0)):
        form = {"max_drop": "0.05", "deadline_seconds": text}
        answer = server.client.post(f"/jobs/{job}/replan", data=form, headers=HTML)
        request = server.client.get("/v1" + answer.headers["location"]).json()["request"]
        assert request["search"]["deadline_seconds"] == expected


@pytest.mark.parametrize(
    ("call", "form", "other"),
    [
        ("replan", {"max_drop": "0.05"}, {"max_drop": "0.06"}),
        ("replan", {"frontier_point": "0"}, {"max_drop": "0.05"}),
        ("edit", {"format-0": "float32"}, {"format-0": "int2/channel"}),
    ],
)
def test_a_form_that_is_sent_twice_makes_one_job_and_another_when_it_was_changed(server, call, form, other):
    job = succeeded(server)
    text = page(server, f"/jobs/{job}/edit" if call == "edit" else f"/jobs/{job}")
    (key,) = set(re.findall(r'name="key" value="(\w+)"', text))

    def sent(form: dict[str, str]) -> str:
        answer = server.client.post(f"/jobs/{job}/{call}", data={"key": key, **form}, headers=HTML)
        assert answer.status_code == 303, answer.text
        return answer.headers["location"]

    assert sent(form) == sent(form)
    assert sent(other) != sent(form)


def test_a_plan_is_edited_by_a_form(server):
    job = succeeded(server)
    text = page(server, f"/jobs/{job}/edit")
    assert text.count("<select name=") == 3
    assert "<option selected>int8/channel</option>" in text
    form = {"format-0": "int2/channel", "format-1": "int4/channel", "format-2": "float32"}
    answer = server.client.post(f"/jobs/{job}/edit/predicted", data=form, headers={"HX-Request": "true"})
    assert answer.status_code == 200, answer.text
    assert "175 bytes" in answer.text
    assert "1 of 3" in answer.text
    assert '<span id="size-0" hx-swap-oob="true">25 bytes</span>' in answer.text
    answer = server.client.post(f"/jobs/{job}/edit", data=form, headers=HTML)
    assert answer.status_code == 303, answer.text
    child = server.client.get("/v1" + answer.headers["location"]).json()
    assert child["parent_id"] == job
    formats = {row["name"]: row["format"] for row in child["request"]["plan"]["layers"]}
    assert formats == {**FORMATS, "conv1": "int2/channel"}


def test_of_more_sensitivities_than_a_page_reads_none_is_read(server, monkeypatch):
    job = succeeded(server)
    assert "too much to predict from" not in page(server, f"/jobs/{job}/edit")
    monkeypatch.setattr(plan_edits, "MOST_SENSITIVITY_BYTES", len(json.dumps(SENSITIVITY)) - 1)
    text = page(server, f"/jobs/{job}/edit")
    assert "too much to predict from" in text
    assert "int2/channel" not in text
    answer = server.client.post(f"/jobs/{job}/edit", data={"format-0": "float32"}, headers=HTML)
    assert answer.status_code == 303, answer.text


@pytest.mark.parametrize(
    ("form", "says"),
    [
        ({"format-0": "int8/channel"}, "Nothing is changed yet"),
        ({"format-0": "int3/channel"}, "may get int2/channel, float32, int8/channel"),
    ],
)
def test_an_edit_that_makes_no_plan_says_why(server, form, says):
    answer = server.client.post(f"/jobs/{succeeded(server)}/edit", data=form, headers=HTML)
    assert answer.status_code == 422
    assert says in answer.text


def test_a_certificate_is_shown_as_one(server):
    quantized = server.upload_model(b"quantized", name="quantized")
    body = {"model_id": server.upload_model(), "quantized_id": quantized}
    job = server.client.post("/v1/certificates", json=body).json()["id"]
    text = page(server, f"/jobs/{job}")
    assert "look for defects" in text
    assert "round the weights" not in text
    claim = claim_job(server.sessions, job, "worker", LEASE)
    document = {
        "outcome": "met", "reason": None, "float_size_bytes": 9, "size_bytes": 5, "model_sha256": "a" * 64,
        "quantized_sha256": "b" * 64, "certificate": CERTIFICATE, "findings": [], "metrics": [],
        "inspection": {"weights": [], "float_share": None},
    }  # fmt: skip
    stored = {"certificate": Artifact(write_bytes(server.sessions, json.dumps(document).encode()), "application/json")}
    assert claims.finish(server.sessions, claim, Outcome.MET, {}, stored)
    text = page(server, f"/jobs/{job}")
    assert "Certified:" in text
    assert f'href="/v1/jobs/{job}/certificate"' in text
    assert "/edit" not in text


def test_a_viewer_may_look_and_change_nothing(serve, settings):
    server = serve(settings.model_copy(update={"auth": "keys"}))
    with server.as_key("ours") as admin, server.as_key("ours", "viewer") as viewer:
        server.client = admin
        job = succeeded(server)
        text = viewer.get(f"/jobs/{job}", headers=HTML).text
        assert "budget met" in text
        assert "<form method=" not in text.replace('action="/sign-out"', "")
        assert viewer.post(f"/jobs/{job}/replan", data={"frontier_point": "0"}, headers=HTML).status_code == 403


def test_no_job_is_an_error_for_people(server):
    answer = server.client.get(f"/jobs/{'0' * 32}", headers=HTML)
    assert answer.status_code == 404
    assert "no job has the id" in answer.text


def test_every_stage_of_the_pipeline_is_known():
    names = {stage.name for stage in STAGES}
    assert names == set(MEANINGS)
    search = stages_of({"objective": "latency"})
    plan, certificate = stages_of({"plan": {"layers": []}}), stages_of({"quantized_id": "a"})
    assert {*search, *plan, *certificate} == names
    in_order = [stage.name for stage in STAGES]
    for stages in (search, plan, certificate):
        assert sorted(stages, key=in_order.index) == list(stages)


def test_seconds_of_a_stage_are_those_of_all_attempts(new_job, sessions):
    job = new_job()
    begin = job.created_at

    def event(kind: str, seconds: float, **data: Any) -> JobEventRow:
        return JobEventRow(kind=kind, created_at=begin + timedelta(seconds=seconds), data=data)

    row = JobRow(request=job.request, state="running", stage="plan")
    live = Live()
    live.add([event("state", 0), event("stage", 1, stage="admit"), event("stage", 3, stage="plan"), event("state", 8)])
    live.add([event("stage", 20, stage="plan")])
    seconds = {line.name: line.seconds for line in live.stages(row, begin + timedelta(seconds=24))}
    assert (seconds["admit"], seconds["plan"], seconds["certify"]) == (2.0, 9.0, None)

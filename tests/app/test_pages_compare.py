"""Jobs side by side, without a browser."""

from __future__ import annotations

import json
import re
from typing import Any

from app.store.blobs import write_bytes
from app.store.jobs import add_artifact, lock_job

HTML = {"Accept": "text/html"}
HOSTILE = "<script>alert(1)</script>"


def finish(server: Any, job_id: str, formats: dict[str, str], size_bytes: int) -> None:
    claim = {"metric": "top1", "drop": 0.005, "low": -0.01, "high": 0.02, "max_drop": 0.01, "kind": "absolute"}
    certificate = {**claim, "float_value": 0.9, "quantized_value": 0.895, "claims": [{"unit": "share"}]}
    layers = [{"name": name, "format": form, "bytes": 10, "input_bits": 32} for name, form in formats.items()]
    plan = {"layers": layers, "bit_operations": 1e9, "predicted_damage": 0.02, "latency": None}
    plan["load"] = {"predicted_ms": 31.26, "base_ms": 2.0, "float_ms": 6.0}
    blob = write_bytes(server.sessions, json.dumps(plan).encode())
    with server.sessions.begin() as session:
        job = lock_job(session, job_id)
        job.state, job.outcome = "succeeded", "met"
        job.summary = {"float_size_bytes": 1000, "size_bytes": size_bytes, "certificate": certificate}
        add_artifact(session, job_id, "plan", blob, "application/json")


def test_two_jobs_side_by_side(server):
    first = server.submit(name="first")["id"]
    second = server.submit(name=HOSTILE, budget={"max_drop": 0.03})["id"]
    waiting = server.submit()["id"]
    finish(server, first, {"conv": "int4/channel", HOSTILE: "int8/channel"}, 250)
    finish(server, second, {"conv": "int2/channel", HOSTILE: "int8/channel"}, 200)
    answer = server.client.get("/compare", params={"job": [first, second, waiting]}, headers=HTML)
    assert answer.status_code == 200, answer.text
    for words in ("4.0 times smaller", "-1.00 points to 2.00 points", "budget.max_drop", "int2/channel", "queued"):
        assert words in answer.text, words
    assert "1 of 2 layers differs" in answer.text
    assert answer.text.count("<td>6 → 31.3 ms</td>") == 2
    assert answer.text.count('class="differs"') == 1
    assert HOSTILE not in answer.text


def test_frontiers_are_in_one_chart(server):
    ids = [server.submit(name=name)["id"] for name in ("first", HOSTILE)]
    without = server.client.get("/compare", params={"job": ids}, headers=HTML).text
    assert "frontier.svg" not in without
    missing = server.client.get("/compare/frontier.svg", params={"job": ids})
    assert (missing.status_code, missing.json()["code"]) == (404, "artifact_missing")
    for job_id in ids:
        finish(server, job_id, {"conv": "int4/channel"}, 250)
        costs = [(9.0, 0.2, True), (20.0, 0.1, False)]
        points = [{"cost": cost, "predicted_damage": damage, "chosen": chosen} for cost, damage, chosen in costs]
        blob = write_bytes(server.sessions, json.dumps({"unit": "bytes", "points": points}).encode())
        with server.sessions.begin() as session:
            add_artifact(session, job_id, "frontier", blob, "application/json")
    text = server.client.get("/compare", params={"job": ids}, headers=HTML).text
    address = re.search(r'<img src="(/compare/frontier.svg[^"]+)"', text)
    assert address
    for theme in ("light", "dark"):
        drawn = server.client.get(address[1].replace("&amp;", "&") + f"&theme={theme}")
        assert (drawn.status_code, drawn.headers["content-type"]) == (200, "image/svg+xml"), drawn.text
        assert "1. first" in drawn.text
        assert "<script" not in drawn.text


def test_one_job_is_not_compared(server):
    job = server.submit()["id"]
    answer = server.client.get("/compare", params={"job": job}, headers=HTML)
    assert answer.status_code == 422
    assert "2 to 6 different jobs" in answer.text

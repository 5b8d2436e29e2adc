"""Charts and reports over HTTP, drawn by a real process from documents of a real job."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from app.lifecycle import claims
from app.lifecycle.states import Artifact, Outcome, Progress
from app.services.reports import stage_seconds
from app.store.blobs import write_bytes
from tests.app.claiming import claim_job

LEASE = timedelta(seconds=30)
DATA = Path(__file__).parents[1] / "report" / "data"
KINDS = ("plan", "frontier", "sensitivity", "samples")


def documents() -> dict[str, bytes]:
    return {kind: (DATA / f"{kind}.json").read_bytes() for kind in KINDS if (DATA / f"{kind}.json").exists()}


def finished(server: Any, artifacts: dict[str, bytes], **request: Any) -> str:
    """A job that has succeeded with these artifacts, after two stages."""
    job_id = str(server.submit(**request)["id"])
    claim = claim_job(server.sessions, job_id, "worker", LEASE)
    assert claim is not None
    for stage in ("admit", "plan"):
        claims.heartbeat(server.sessions, claim, LEASE, Progress(stage, 0.5))
    stored = {
        kind: Artifact(write_bytes(server.sessions, data), "application/json") for kind, data in artifacts.items()
    }
    assert claims.finish(server.sessions, claim, Outcome.MET, {}, stored)
    return job_id


def test_a_chart_is_drawn_once_and_then_known_by_its_tag(server: Any) -> None:
    address = f"/v1/jobs/{finished(server, documents())}/charts/frontier.svg"
    answer = server.client.get(address)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "image/svg+xml"
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert answer.text.startswith("<svg")
    assert "predicted damage" in answer.text
    tag = answer.headers["etag"]
    again = server.client.get(address, headers={"If-None-Match": tag})
    assert (again.status_code, again.content) == (304, b"")
    assert server.client.head(address).headers["etag"].removeprefix("W/") == tag.removeprefix("W/")
    dark = server.client.get(f"{address}?theme=dark")
    assert "#0f1419" in dark.text
    assert dark.headers["etag"] != tag
    image = server.client.get(address.replace(".svg", ".png"))
    assert image.headers["content-type"] == "image/png"
    assert image.content.startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("charts/frontier.svg?theme=pink", 422, "request_invalid"),
        ("charts/no-such.svg", 422, "request_invalid"),
        ("charts/frontier.gif", 404, "not_found"),
    ],
)
def test_a_chart_that_nobody_has_is_refused(server: Any, path: str, status: int, code: str) -> None:
    answer = server.client.get(f"/v1/jobs/{'0' * 32}/{path}")
    assert (answer.status_code, answer.json()["code"]) == (status, code)


def test_what_cannot_be_drawn_says_why(server: Any) -> None:
    job_id = server.submit()["id"]
    answer = server.client.get(f"/v1/jobs/{job_id}/charts/frontier.svg")
    assert (answer.status_code, answer.json()["code"]) == (409, "job_not_finished")
    applied = {"version": 1, "layers": [{"name": "fc", "format": "int8/channel"}], "activations": []}
    job_id = finished(server, {"plan": documents()["plan"]}, plan=applied)
    answer = server.client.get(f"/v1/jobs/{job_id}/charts/frontier.png")
    assert (answer.status_code, answer.json()["code"]) == (404, "artifact_missing")
    assert "there was no search and there is no frontier" in answer.json()["detail"]


def test_stages_are_timed_by_the_events_of_a_job(server: Any) -> None:
    seconds = stage_seconds(server.sessions, finished(server, {}))
    assert list(seconds) == ["admit", "plan"]
    assert all(0 <= taken < 60 for taken in seconds.values())


def test_the_report_and_the_model_card_name_the_job(server: Any) -> None:
    job_id = finished(server, documents(), name="digits <b>")
    answer = server.client.get(f"/v1/jobs/{job_id}/report.html")
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "sandbox allow-scripts" in answer.headers["content-security-policy"]
    assert "<h1>Report: digits &lt;b&gt;</h1>" in answer.text
    assert '<li><a href="#samples">' in answer.text
    assert job_id in answer.text
    tag = answer.headers["etag"].removeprefix("W/")
    assert server.client.get(f"/v1/jobs/{job_id}/report.html", headers={"If-None-Match": tag}).status_code == 304
    without = server.client.get(f"/v1/jobs/{job_id}/report.html?samples=false")
    assert "#samples" not in without.text
    card = server.client.get(f"/v1/jobs/{job_id}/model-card.md")
    assert card.headers["content-type"] == "text/markdown; charset=utf-8"
    assert card.text.startswith("---\nlibrary_name")
    assert "digits &lt;b&gt;" in card.text

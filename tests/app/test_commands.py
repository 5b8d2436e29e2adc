"""Commands on a server, in this process: what they print, and with which status they end."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from app.cli import main, output
from app.lifecycle import claims
from app.lifecycle.states import Estimate, Outcome
from app.store.job_logs import LogLine, add_lines
from tests.app.claiming import claim_job
from tests.app.finishing import finished as finished_job

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)  # commands see none

PLAN = {
    "outcome": "met",
    "reason": None,
    "float_size_bytes": 1000,
    "size_bytes": 250,
    "layers": [{"name": "=conv1", "bits": 4, "input_bits": 32}],
}
FRONTIER = {
    "cost": "size",
    "unit": "bytes",
    "points": [
        {"cost": 900, "predicted_damage": 0.001, "bits": {"a": 8, "b": 8}, "measured": None, "chosen": False},
        {
            "cost": 250,
            "predicted_damage": 0.02,
            "bits": {"a": 4, "b": 8},
            "measured": {"drop": 0.0123, "stderr": 0.001},
            "chosen": True,
        },
    ],
}

EVALUATED = {"size_bytes": 250, "drop": 0.0123, "stderr": 0.001}


@dataclass(frozen=True)
class Ended:
    status: int
    out: str
    err: str


@pytest.fixture
def bitbudget(server, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Any:
    """Runs a command on the server as the console script does."""
    monkeypatch.setenv("BITBUDGET_SERVER", str(server.client.base_url))
    monkeypatch.setattr(output.CONSOLE, "_width", 80)
    monkeypatch.chdir(tmp_path)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}

    def run(*arguments: str) -> Ended:
        monkeypatch.setattr(sys, "argv", ["bitbudget", *arguments])
        capfd.readouterr()
        try:
            main()
            status: Any = 0
        except SystemExit as end:
            status = end.code or 0
        return Ended(int(status), *capfd.readouterr())

    yield run
    output.MODE.as_json = output.PROGRESS.quiet = False
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def finished(server) -> Callable[..., str]:
    """Makes a job that ended so: `met`, `not_met`, `deadline`, `failed` or `cancelled`."""

    def make(how: str = "met") -> str:
        if how in ("met", "not_met", "deadline"):
            summary = {**PLAN, "outcome": how, "reason": None if how == "met" else "misses the budget by 0.5"}
            artifacts = {"plan": json.dumps(summary).encode(), "frontier": json.dumps(FRONTIER).encode()}
            return finished_job(server, outcome=Outcome(how), summary=summary, **artifacts)
        job_id = str(server.submit()["id"])
        if how == "cancelled":
            server.client.post(f"/v1/jobs/{job_id}/cancel")
        else:
            claim = claim_job(server.sessions, job_id, "w", timedelta(hours=1))
            claims.record_estimate(server.sessions, claim, Estimate("job", 90.0, 1 << 30, 30.5))
            claims.record_event(server.sessions, claim, "evaluated", EVALUATED)
            claims.fail(server.sessions, claim, "model_not_onnx", "got a text; send the .onnx file")
        return job_id

    return make


@pytest.mark.parametrize(
    ("how", "status", "said"),
    [
        ("met", 0, ""),
        ("not_met", 3, "misses the budget by 0.5"),
        ("deadline", 3, "deadline: "),
        ("failed", 1, "send the .onnx file"),
        ("cancelled", 4, "was cancelled"),
    ],
)
def test_waiting_ends_with_the_status_of_the_job(bitbudget, finished, how: str, status: int, said: str) -> None:
    job_id = finished(how)
    waited = bitbudget("status", job_id, "--wait", "--quiet")
    assert waited.status == status
    assert said in waited.err
    as_json = bitbudget("status", job_id, "--wait", "--quiet", "--json")
    assert (as_json.status, json.loads(as_json.out)["id"]) == (status, job_id)
    assert as_json.err == "" if how == "met" else set(json.loads(as_json.err)) == {"code", "title", "detail"}


def test_usage_and_refusals_have_different_statuses(bitbudget, tmp_path: Path) -> None:
    model = tmp_path / "model.onnx"
    model.write_bytes(b"model")
    assert bitbudget("status", "--no-such-option").status == 2
    assert bitbudget("submit", str(tmp_path / "none.onnx")).status == 2
    assert bitbudget("submit", str(model), "--bits", "many").status == 2
    refused = bitbudget("submit", str(model), "--max-drop", "3", "--json")
    assert refused.status == 1
    assert json.loads(refused.err)["code"] == "budget_invalid"
    unknown = bitbudget("status", "0" * 32)
    assert (unknown.status, "Not found" in unknown.err) == (1, True)
    nobody = bitbudget("status", "--server", "http://127.0.0.1:9", "--json")
    assert (nobody.status, json.loads(nobody.err)["code"]) == (1, "unreachable")
    assert bitbudget("--version").out.startswith("bitbudget 0.")


def test_progress_without_a_terminal_is_a_line_for_each_thing(bitbudget, finished) -> None:
    waited = bitbudget("status", finished("failed"), "--wait")
    evaluated = "evaluated a plan of 250 bytes: drop +0.0123 +- 0.001"
    expected = "the whole job is expected to take 90 s"
    assert waited.err.splitlines()[:5] == ["queued", "running", expected, evaluated, "failed"]


def test_what_a_job_came_to_is_said_first(bitbudget, finished) -> None:
    waited = bitbudget("status", finished())
    assert waited.out.splitlines()[1] == "1,000 -> 250 bytes (4.0 times smaller), budget met"


def test_jobs_are_cancelled_and_removed(bitbudget, server) -> None:
    first, second = (str(server.submit()["id"]) for _ in range(2))
    done = bitbudget("cancel", first, second, "--json")
    assert [job["state"] for job in json.loads(done.out)] == ["cancelled", "cancelled"]
    assert json.loads(bitbudget("rm", first, "--json").out) == {"removed": [first]}
    assert [job["id"] for job in json.loads(bitbudget("status", "--json").out)] == [second]
    again = bitbudget("rm", first)
    assert (again.status, "Not found" in again.err) == (1, True)


def test_events_and_logs_are_printed_as_text_and_as_lines_of_json(bitbudget, finished, server) -> None:
    job_id = finished()
    noon = datetime(2026, 3, 1, 12, tzinfo=UTC)
    lines = [LogLine(noon, "info", f"line {number}") for number in range(1, 4)]
    with server.sessions.begin() as session:
        add_lines(session, job_id, lines)
    assert bitbudget("events", job_id).out.splitlines()[-1].endswith("Z succeeded")
    kinds = [json.loads(line)["event"] for line in bitbudget("events", job_id, "--json").out.splitlines()]
    assert kinds == ["state", "state", "state"]
    assert bitbudget("logs", job_id).out.splitlines()[0] == "2026-03-01T12:00:00Z INFO    line 1"
    assert [json.loads(line)["seq"] for line in bitbudget("logs", job_id, "--json").out.splitlines()] == [1, 2, 3]


def test_the_frontier_is_shown_with_what_was_measured(bitbudget, finished) -> None:
    job_id = finished()
    lines = bitbudget("frontier", job_id).out.splitlines()
    cheap, dear = (next(line for line in lines if cost in line) for cost in ("250", "900"))
    assert lines.index(cheap) < lines.index(dear)
    assert all(part in cheap for part in ("1 x 4, 1 x 8", "+0.0123", "chosen"))
    assert json.loads(bitbudget("frontier", job_id, "--json").out) == FRONTIER


def test_a_plan_is_exported_from_a_job_and_from_a_file(bitbudget, finished, tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps(PLAN))
    table = "layer,weight_bits,activation_bits\r\n'=conv1,4,32\r\n"
    assert bitbudget("export", finished(), "--to", "table").out == table
    assert bitbudget("export", str(plan), "--to", "table", "--out", "t.csv").status == 0
    assert (tmp_path / "t.csv").read_bytes() == table.encode()
    refused = bitbudget("export", str(plan), "--to", "aimet")
    assert (refused.status, "name the job" in refused.err) == (2, True)


def test_a_replan_sends_only_what_changes(bitbudget, finished, server, tmp_path: Path) -> None:
    (tmp_path / "bitbudget.toml").write_text("seed = 7\n")
    made = bitbudget("replan", finished(), "--max-drop", "0.03", "--name", "again", "--json")
    assert made.status == 0, made.err
    job = json.loads(made.out)
    assert (job["name"], job["request"]["budget"]["max_drop"], job["request"]["seed"]) == ("again", 0.03, 0)


def test_members_come_from_options_then_the_request_file_then_the_configuration(bitbudget, tmp_path: Path) -> None:
    model, request, config = (tmp_path / name for name in ("model.onnx", "request.json", "team.toml"))
    model.write_bytes(b"model")
    request.write_text(json.dumps({"seed": 2, "opset": 20}))
    config.write_text('objective = "bit_operations"\nseed = 1\n[budget]\nmax_drop = 0.25\nmetric = "kl"\n')
    given = ("--config", str(config), "--request", str(request), "--opset", "19", "--max-drop", "0.5", "--json")
    job = json.loads(bitbudget("submit", str(model), *given).out)["request"]
    assert (job["objective"], job["seed"], job["opset"]) == ("bit_operations", 2, 19)
    assert (job["budget"]["max_drop"], job["budget"]["metric"]) == (0.5, "kl")

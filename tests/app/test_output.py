"""Names from a stranger's network, on the terminal."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rich.text import Text

from app.cli import output
from app.cli.job_view import show_job, show_jobs
from app.cli.plan_view import show_plan
from app.cli.progress import follow, upload_progress
from bitbudget_client import Event, Job

HOSTILE = "a\x1b]0;owned\x07\x1b[2J\r\x08\x9b31m\u202eb[red]c[/red]{d}\x7f"

FIGURES = {"samples": 900, "float_value": 0.5, "quantized_value": 0.4, "drop": 0.1, "level": 0.95}
CERTIFICATE = {"metric": HOSTILE, **FIGURES, "low": 0.05, "high": 0.15, "max_drop": 0.2}

EVENTS = {
    "state": {"state": HOSTILE, "reason": HOSTILE, "attempt": 2},
    "stage": {"stage": HOSTILE},
    "progress": {"stage": HOSTILE, "progress": 0.5, "eta_seconds": 100.0},
    "estimate": {"stage": HOSTILE, "seconds": 3.0},
}


class Hostile:
    """A client of a server that means no good."""

    def events(self, _job_id: str) -> Iterator[Event]:
        yield from (Event(kind, data, None) for kind, data in EVENTS.items())

    def job(self, job_id: str) -> Job:
        return Job({"id": job_id})


@given(st.text())
@example("\\")
@example("[red]\\")
def test_what_is_printed_holds_nothing_that_a_terminal_obeys(text: str) -> None:
    printed = Text.from_markup(output.plain(text)).plain
    assert all(c.isprintable() or c == "\n" for c in printed)
    if text.isprintable():
        assert printed == text


def test_names_from_the_server_are_printed_as_text(capfd: pytest.CaptureFixture[str], monkeypatch) -> None:
    monkeypatch.setattr(output.CONSOLE, "_width", 400)
    job = {
        "id": HOSTILE,
        "name": HOSTILE,
        "tags": [HOSTILE],
        "state": "failed",
        "outcome": HOSTILE,
        "stage": HOSTILE,
        "progress": 0.5,
        "attempt": 2,
        "created_at": HOSTILE,
        "eta_seconds": None,
        "estimate": {"stage": HOSTILE, "seconds": 1.5, "memory_bytes": 10},
        "error": {"title": HOSTILE, "detail": HOSTILE},
        "summary": {"reason": HOSTILE, "certificate": CERTIFICATE},
    }
    show_job(job)
    show_jobs([job])
    show_plan({"layers": [{"name": HOSTILE, "bits": HOSTILE}], "certificate": CERTIFICATE})
    output.show_json({HOSTILE: HOSTILE})
    output.complain(HOSTILE, HOSTILE)
    follow(Hostile(), HOSTILE)
    out, err = capfd.readouterr()
    for text in (out, err):
        assert r"a\x1b]0;owned\x07\x1b[2J" in text or r"a\u001b]0;owned\u0007" in text
        assert "[red]c[/red]{d}" in text
        assert all(c.isprintable() or c == "\n" for c in text), ascii(text)
    shown = out[out.index("{\n") :]
    assert json.loads(shown) == {HOSTILE: HOSTILE}


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Progress is shown as to somebody who looks at it."""
    monkeypatch.setattr(output.PROGRESS, "_force_terminal", True)
    monkeypatch.setattr(output.PROGRESS, "_width", 400)


@pytest.mark.usefixtures("terminal")
def test_names_in_bars_are_text(capfd: pytest.CaptureFixture[str]) -> None:
    follow(Hostile(), "a job")
    with upload_progress() as sent:
        sent(HOSTILE, 1, 2)
    printed = "".join(capfd.readouterr())
    assert r"a\x1b]0;owned\x07\x1b[2J" in printed
    assert "owned\x07" not in printed
    assert "\x1b[2J" not in printed


def test_a_list_has_whole_ids_and_what_each_job_came_to_in_a_narrow_window(
    capfd: pytest.CaptureFixture[str], monkeypatch
) -> None:
    monkeypatch.setattr(output.CONSOLE, "_width", 80)
    summary = {"certificate": CERTIFICATE | {"metric": "segmentation_miou"}, "size_bytes": 98_418}
    job = {"name": "a name that is rather long", "progress": 1.0, "summary": summary, "state": "succeeded"}
    jobs = [{**job, "id": digit * 32, "outcome": "not_met"} for digit in "ab"]
    jobs.append({**job, "id": "c" * 32, "state": "running", "outcome": None, "progress": 0.456, "summary": None})
    show_jobs(jobs)
    lines = capfd.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    of_a = next(line for line in lines if "a" * 32 in line)
    assert all(part in of_a for part in ("a name that", "not_met", "0.1 segm", "98.4 kB")), of_a
    assert "running 46%" in next(line for line in lines if "c" * 32 in line)


def test_the_headline_comes_first_and_then_why_and_then_the_layers(capfd: pytest.CaptureFixture[str]) -> None:
    plan = {
        "outcome": "not_met",
        "reason": "misses the budget by 0.01",
        "float_size_bytes": 1000,
        "size_bytes": 100,
        "certificate": CERTIFICATE | {"metric": "top1"},
        "stays_float": {"share": 0.4, "bytes": 40, "tensors": [{"name": "embedding", "bytes": 40, "reason": "a mask"}]},
        "load": {"predicted_ms": 31.26, "base_ms": 2.0, "float_ms": 6.0},
        "layers": [{"name": "conv1", "bits": 4, "sparsity": 0.4567}],
    }
    show_plan(plan)
    printed = capfd.readouterr().out
    assert printed.startswith("1,000 -> 100 bytes (10.0 times smaller), top1 0.5000 -> 0.4000, budget not met\n")
    order = [printed.index(part) for part in ("misses the budget", "on 900 held-out", "embedding (a mask)", "conv1")]
    assert order == sorted(order)
    assert "Loading takes 31.3 ms as predicted" in printed
    assert "zeros" in printed
    assert "45.7%" in printed


def test_what_stays_float_is_printed_with_its_reason(capfd: pytest.CaptureFixture[str], monkeypatch) -> None:
    monkeypatch.setattr(output.CONSOLE, "_width", 400)
    tensors = [
        {"name": HOSTILE, "bytes": 4096, "reason": "a mask"},
        {"name": "12 others", "bytes": 500, "reason": "too small to pay"},
        {"name": "old", "bytes": 4},
    ]
    plan = {"stays_float": {"bytes": 4600, "share": 0.37, "tensors": tensors}}
    show_plan(plan)
    printed = capfd.readouterr().out
    assert "37% of the weight bytes stay float: " in printed
    assert "(a mask), 12 others (too small to pay), old" in printed
    assert "\x1b" not in printed

"""Names from a stranger's network, on the terminal."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rich.text import Text

from app.cli import output

HOSTILE = "a\x1b]0;owned\x07\x1b[2J\r\x08\x9b31m\u202eb[red]c[/red]{d}\x7f"


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
    }
    output.show_job(job)
    output.show_jobs([job])
    output.show_plan({"layers": [{"name": HOSTILE, "bits": HOSTILE}], "certificate": {"metric": HOSTILE}})
    output.show_json({HOSTILE: HOSTILE})
    output.complain(HOSTILE, HOSTILE)
    with output.job_bar() as bar:
        bar({**job, "state": "running"})
    out, err = capfd.readouterr()
    for text in (out, err):
        assert r"a\x1b]0;owned\x07\x1b[2J" in text or r"a\u001b]0;owned\u0007" in text
        assert "[red]c[/red]{d}" in text
        assert all(c.isprintable() or c == "\n" for c in text), ascii(text)
    shown = out[out.index("{\n") :]
    assert json.loads(shown) == {HOSTILE: HOSTILE}


def test_the_name_of_an_uploaded_file_is_text(tmp_path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a\x1b[2J{0}[red].onnx"
    path.write_bytes(b"x")
    with output.upload_bar(path) as sent:
        sent(1)
    assert "\x1b[2J" not in "".join(capfd.readouterr())


def test_ids_are_whole_in_a_narrow_window(capfd: pytest.CaptureFixture[str], monkeypatch) -> None:
    monkeypatch.setattr(output.CONSOLE, "_width", 80)
    job = {"state": "succeeded", "outcome": "not_met", "stage": "sensitivity", "progress": 1.0}
    jobs = [{**job, "id": digit * 32, "created_at": "2026-01-01T00:00:00Z"} for digit in "ab"]
    output.show_jobs(jobs)
    out = capfd.readouterr().out
    assert all(line in out for line in ("a" * 32, "b" * 32))
    assert max(map(len, out.splitlines())) <= 80


def test_what_stays_float_is_printed_with_its_reason(capfd: pytest.CaptureFixture[str], monkeypatch) -> None:
    monkeypatch.setattr(output.CONSOLE, "_width", 400)
    tensors = [
        {"name": HOSTILE, "bytes": 4096, "reason": "a mask"},
        {"name": "12 others", "bytes": 500, "reason": "too small to pay"},
        {"name": "old", "bytes": 4},
    ]
    plan = {"certificate": {}, "stays_float": {"bytes": 4600, "share": 0.37, "tensors": tensors}}
    output.show_plan(plan)
    printed = capfd.readouterr().out
    assert "37% of the weight bytes stay float: " in printed
    assert "(a mask), 12 others (too small to pay), old" in printed
    assert "\x1b" not in printed

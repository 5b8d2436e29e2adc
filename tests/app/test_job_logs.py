from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from app.errors import AppError
from app.services.job_logs import job_log
from app.store import job_logs
from app.store.engine import Sessions
from app.store.job_logs import LogLine, add_lines
from app.store.tables import JobLogRow, JobRow

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def _lines(first: int, last: int) -> list[LogLine]:
    return [LogLine(NOON + timedelta(seconds=number), "info", f"line {number}") for number in range(first, last + 1)]


def _add(sessions: Sessions, job_id: str, lines: list[LogLine]) -> bool:
    with sessions.begin() as session:
        return add_lines(session, job_id, lines)


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_logs, "FIRST_LINES", 3)
    monkeypatch.setattr(job_logs, "LAST_LINES", 2)


def test_lines_are_numbered_in_the_order_of_the_writes(sessions: Sessions, new_job: Callable[[], JobRow]) -> None:
    job, other = new_job().id, new_job().id
    assert _add(sessions, job, _lines(1, 2))
    assert _add(sessions, other, _lines(7, 7))
    assert _add(sessions, job, [LogLine(NOON, "error", "it\x00broke")])
    shown = job_log(sessions, job, 0, 100)
    assert [(line.seq, line.level, line.text) for line in shown] == [
        (1, "info", "line 1"),
        (2, "info", "line 2"),
        (3, "error", "it\ufffdbroke"),
    ]
    assert shown[1].at == NOON + timedelta(seconds=2)
    assert [line.seq for line in job_log(sessions, job, 1, 1)] == [2]
    assert job_log(sessions, job, 3, 100) == []


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("batches", [[(1, 9)], [(1, 4), (5, 9)], [(number, number) for number in range(1, 10)]])
def test_of_many_lines_the_first_and_the_last_are_kept(
    batches: list[tuple[int, int]], sessions: Sessions, new_job: Callable[[], JobRow]
) -> None:
    job = new_job().id
    for first, last in batches:
        _add(sessions, job, _lines(first, last))
    with sessions.read() as session:
        assert session.query(JobLogRow).count() == 5
    shown = [(line.seq, line.text) for line in job_log(sessions, job, 0, 100)]
    kept = [(number, f"line {number}") for number in (1, 2, 3, 8, 9)]
    assert shown == [*kept[:3], (7, "… 4 lines left out"), *kept[3:]]
    # Whoever reads page by page misses none of it.
    pages, after = [], 0
    while page := job_log(sessions, job, after, 2):
        pages += [(line.seq, line.text) for line in page]
        after = page[-1].seq
    assert pages == shown


def test_a_long_line_is_cut(sessions: Sessions, new_job: Callable[[], JobRow]) -> None:
    job = new_job().id
    _add(sessions, job, [LogLine(NOON, "info", "x" * 5_000)])
    (line,) = job_log(sessions, job, 0, 1)
    assert line.text == "x" * 1_999 + "…"


def test_a_log_belongs_to_its_project(sessions: Sessions, new_job: Callable[[], JobRow]) -> None:
    job = new_job().id
    _add(sessions, job, _lines(1, 1))
    others = sessions.of("others")
    assert not _add(others, job, _lines(2, 2))
    with pytest.raises(AppError, match="not_found"):
        job_log(others, job, 0, 10)
    with others.read() as session:
        assert job_logs.lines_after(session, job, 0, 10) == []
    assert [line.text for line in job_log(sessions, job, 0, 10)] == ["line 1"]


def test_a_level_is_one_of_four() -> None:
    with pytest.raises(ValueError, match="debug, info, warning, error, got 'loud'"):
        LogLine(NOON, "loud", "")


def test_the_api_gives_lines_of_json_or_of_text(server: Any, sessions: Sessions) -> None:
    job_id = server.submit()["id"]
    assert server.client.get(f"/v1/jobs/{job_id}/log").text == ""
    _add(sessions, job_id, [*_lines(1, 1), LogLine(NOON, "warning", "é\n\x1b[2Jtwo")])
    answer = server.client.get(f"/v1/jobs/{job_id}/log")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/jsonl")
    first, second = [json.loads(line) for line in answer.text.splitlines()]
    assert first == {"seq": 1, "at": "2026-03-01T12:00:01+00:00", "level": "info", "text": "line 1"}
    assert second["text"] == "é\n\x1b[2Jtwo"
    text = server.client.get(f"/v1/jobs/{job_id}/log?after=1", headers={"Accept": "text/plain, */*"})
    assert text.headers["content-type"] == "text/plain; charset=utf-8"
    assert text.text == "2026-03-01T12:00:00Z WARNING é  [2Jtwo\n"


def test_the_api_refuses_what_is_no_job_and_no_number(server: Any) -> None:
    answer = server.client.get(f"/v1/jobs/{'0' * 32}/log")
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    for query in ("after=-1", "limit=0", "limit=2001", "after=x"):
        assert server.client.get(f"/v1/jobs/{'0' * 32}/log?{query}").status_code == 422

from __future__ import annotations

import pytest

from app.store import stage_seconds as counting
from app.store.engine import Sessions
from app.store.stage_seconds import LONGER_SECONDS, add_stage_seconds, stage_seconds


def _add(sessions: Sessions, stage: str, seconds: float) -> bool:
    with sessions.begin() as session:
        return add_stage_seconds(session, stage, seconds)


def test_runs_are_counted_under_the_smallest_bound_that_holds(sessions: Sessions) -> None:
    for seconds in (0.0, 0.1, 0.2, 0.5, 7e5):
        assert _add(sessions, "plan", seconds)
    _add(sessions, "admit", 2.0)
    with sessions.read() as session:
        counted = stage_seconds(session)
    assert {stage: [(row.upper_seconds, row.runs) for row in rows] for stage, rows in counted.items()} == {
        "admit": [(5.0, 1)],
        "plan": [(0.1, 2), (0.5, 2), (LONGER_SECONDS, 1)],
    }
    assert sum(row.seconds for row in counted["plan"]) == pytest.approx(700_000.8)


def test_names_of_a_hostile_process_fill_no_table(sessions: Sessions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counting, "MOST_STAGES", 2)
    assert not _add(sessions, "no stage!", 1.0)
    assert _add(sessions, "first", 1.0)
    assert _add(sessions, "second", 1.0)
    assert not _add(sessions, "third", 1.0)
    assert _add(sessions, "first", 1.0)

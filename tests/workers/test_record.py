from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from app.lifecycle.states import Claim
from app.services.job_logs import job_log
from app.store.engine import Sessions
from app.store.stage_seconds import stage_seconds
from pipeline.events import Estimate, MethodTimed, PlanEvaluated, Progress, StageBegan, StageEnded
from workers import record
from workers.child_process import ChildGone
from workers.record import AttemptRecord

NEVER = 1e6
"""Seconds between two writes: the test itself writes."""


@pytest.fixture
def claim(jobs: Any) -> Claim:
    job = jobs.row(jobs.add())
    return Claim(job.id, job.project_id, "worker/1/", 1, job.model_id, job.dataset_id, None, {})


@pytest.fixture
def shown(sessions: Sessions, claim: Claim) -> Callable[[], list[tuple[str, str]]]:
    """Level and text of the job's lines."""
    return lambda: [(line.level, line.text) for line in job_log(sessions, claim.job_id, 0, 2_000)]


@pytest.fixture(autouse=True)
def _level(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


def test_the_log_says_what_the_job_reports(
    sessions: Sessions, claim: Claim, shown: Callable[[], list[tuple[str, str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = iter([100.0, 102.5])
    with AttemptRecord(sessions, claim, write_seconds=NEVER) as attempt:
        monkeypatch.setattr(record.time, "monotonic", lambda: next(seconds))
        for event in (
            StageEnded("admit", ran=False),
            StageBegan("sensitivity", timedelta(hours=24)),
            Progress("sensitivity", 0.5),
            Estimate("job", 99.6, 4 * 1024**3, 30.5),
            Estimate("sensitivity", 12.4, 3 * 1024**3),
            MethodTimed("hawq_v2", 1.25),
            PlanEvaluated({"drop": 0.0125, "size_bytes": 4096, "within": None, "samples": True}),
            MethodTimed("hawq", "a while"),  # type: ignore[arg-type]
            PlanEvaluated(["a list"]),  # type: ignore[arg-type]
            StageEnded("sensitivity", ran=True),
        ):
            attempt.event(event)
        monkeypatch.undo()
    assert shown() == [
        ("info", "the result of stage admit was there already"),
        ("info", "stage sensitivity begins; it may take 1 day, 0:00:00"),
        ("info", "the whole job is expected to take 100 s and 4.0 GiB"),
        ("info", "stage sensitivity is expected to take 12 s and 3.0 GiB"),
        ("info", "the method hawq_v2 took 1.2 s"),
        ("info", "a plan was evaluated: drop 0.0125, size_bytes 4096"),
        ("info", "stage sensitivity is done after 2.5 s"),
    ]
    with sessions.read() as session:
        counted = stage_seconds(session)
    assert [(stage, row.upper_seconds, row.runs) for stage, rows in counted.items() for row in rows] == [
        ("sensitivity", 5.0, 1)
    ]


def test_what_our_loggers_say_about_the_job_is_in_its_log(
    sessions: Sessions, claim: Claim, shown: Callable[[], list[tuple[str, str]]]
) -> None:
    ours = logging.getLogger("workers.job")
    with AttemptRecord(sessions, claim, write_seconds=NEVER):
        ours.info("job %s: attempt %d", claim.job_id, 1)
        ours.warning("it lost its process")  # about the job of this thread
        ours.info("job %s: attempt %d", "f" * 32, 1)
        ours.debug("job %s: a detail", claim.job_id)
        logging.getLogger("sqlalchemy.pool").warning("job %s: not ours", claim.job_id)
        logging.getLogger("workers.observer").info("job %s: said by the event", claim.job_id)
    ours.warning("job %s: too late", claim.job_id)
    assert shown() == [("info", "attempt 1"), ("warning", "it lost its process")]


def test_users_see_no_traceback_no_folder_and_no_credentials(
    sessions: Sessions, claim: Claim, shown: Callable[[], list[tuple[str, str]]]
) -> None:
    ours = logging.getLogger("workers.job")
    hidden = (Path("/var/lib/bitbudget"), Path("/"))
    with AttemptRecord(sessions, claim, hidden, write_seconds=NEVER) as attempt:
        try:
            raise OSError("connection to 10.0.0.5 failed for user bitbudget")
        except OSError as error:
            ours.error("job %s: no heartbeat: %s", claim.job_id, error, exc_info=True)
        ours.error("job %s: stage %s failed\n%s", claim.job_id, "plan", 'Traceback:\n  File "/secret/place.py"')
        ours.warning("job %s: its process %s", claim.job_id, ChildGone("was ended by signal 9"))
        attempt.line("warning", "cannot read '/var/lib/bitbudget/tmp/job-7/model' of node /layer1/conv/Conv")
        attempt.line("info", "asked redis://:swordfish@10.0.0.6/0")
    assert shown() == [
        ("error", "no heartbeat: OSError"),
        ("error", "stage plan failed"),
        ("warning", "its process was ended by signal 9"),
        ("warning", "cannot read '…' of node /layer1/conv/Conv"),
        ("info", "asked redis://…@10.0.0.6/0"),
    ]


def test_lines_wait_for_a_database_that_is_away(
    sessions: Sessions, claim: Claim, shown: Callable[[], list[tuple[str, str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record, "MOST_PENDING", 3)
    with AttemptRecord(sessions, claim, write_seconds=NEVER) as attempt:
        _rename(sessions, "job_logs", "elsewhere")
        attempt.line("info", "first")
        attempt.write()
        for number in range(4):
            attempt.line("info", f"line {number}")
        attempt.write()
        _rename(sessions, "elsewhere", "job_logs")
    assert shown() == [
        ("info", "first"),
        ("info", "line 0"),
        ("info", "line 1"),
        ("warning", "2 lines came too fast and are lost"),
    ]


def test_a_log_that_cannot_be_written_in_the_end_is_said_to_the_operator(
    sessions: Sessions, claim: Claim, caplog: pytest.LogCaptureFixture
) -> None:
    with AttemptRecord(sessions, claim, write_seconds=NEVER) as attempt:
        attempt.line("info", "lost")
        _rename(sessions, "job_logs", "elsewhere")
    assert f"job {claim.job_id}: 1 lines of its log are lost" in caplog.text


def test_lines_are_written_while_the_job_runs(
    sessions: Sessions, claim: Claim, shown: Callable[[], list[tuple[str, str]]], wait_until: Callable[..., None]
) -> None:
    with AttemptRecord(sessions, claim, write_seconds=0.01) as attempt:
        attempt.line("info", "now")
        wait_until(lambda: shown() == [("info", "now")])


def _rename(sessions: Sessions, table: str, name: str) -> None:
    with sessions.begin() as session:
        session.execute(text(f"ALTER TABLE {table} RENAME TO {name}"))

"""The process that `bitbudget serve` keeps running."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from app.settings import Settings
from app.supervisor import Backoff, WorkerProcess

FAST = Backoff(first=0.01, longest=0.01)


def test_a_worker_is_started_again_whatever_goes_wrong_meanwhile(
    tmp_path: Path, wait_until: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    """The database may be away just when the jobs of a dead worker are to be taken back."""
    ended: list[str] = []

    def on_end(name: str) -> None:
        ended.append(name)
        raise OSError("the database is away")

    settings = Settings(home=tmp_path)
    # A worker with arguments that it does not know ends at once.
    process = WorkerProcess(settings, on_end, arguments=("--no-such-option",), log=tmp_path / "log", backoff=FAST)
    with caplog.at_level(logging.ERROR, logger="app.supervisor"):
        process.start()
        wait_until(lambda: len(ended) >= 2)
        process.stop()
    assert len(set(ended)) == len(ended), "each has a name of its own"
    assert "not taken back at once" in caplog.text


def test_a_worker_that_cannot_be_started_is_tried_again(
    tmp_path: Path, wait_until: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    log = tmp_path / "folder" / "log"  # there is no such folder
    process = WorkerProcess(Settings(home=tmp_path), lambda _name: None, log=log, backoff=FAST)
    with caplog.at_level(logging.ERROR, logger="app.supervisor"):
        process.start()
        wait_until(lambda: caplog.text.count("cannot be started") >= 2)
        process.stop()

"""Commands that end before their jobs, in every way that a process ends, and what the next command finds."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import sqlite3
import subprocess
import termios
from collections.abc import Iterator
from contextlib import closing

import pytest

FAKE = ("--pipeline", "held_pipeline")


def _states(commands) -> list[str]:
    with closing(sqlite3.connect(commands.home / "bitbudget.db")) as database:
        return [state for (state,) in database.execute("SELECT state FROM jobs ORDER BY created_at")]


@pytest.fixture(autouse=True)
def hang_ups_are_heard() -> Iterator[None]:
    """Also where the tests run under `nohup`, of which processes inherit that they hear none."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_command_that_is_told_to_end_cancels_its_job(
    commands, fake_model, descendants, alive, wait_until, number
) -> None:
    planning = commands.start("plan", str(fake_model.write(hold=["admit"])), "--out", "out", *FAKE)
    wait_until(lambda: fake_model.pid_of("admit"))
    left = descendants(planning.pid)
    planning.send_signal(number)
    assert planning.wait() == 128 + number
    assert not any(alive(pid) for pid in left)
    assert _states(commands) == ["cancelled"]
    assert not list((commands.home / "commands").iterdir())


def test_a_killed_command_is_not_waited_for_by_the_next_one(
    commands, fake_model, tmp_path, descendants, alive, wait_until, let_go
) -> None:
    planning = commands.start("plan", str(fake_model.write(hold=["squares[1]"])), "--out", "first", *FAKE)
    wait_until(lambda: fake_model.pid_of("squares[1]"))
    left = descendants(planning.pid)
    planning.kill()
    planning.wait()
    wait_until(lambda: not any(alive(pid) for pid in left))
    # nobody lets the first job go on: whoever waits for it fails
    other = fake_model.write("other", values=[1, 2])
    done = commands.run("plan", str(other), "--max-drop", "0.5", "--out", "second", *FAKE)
    assert done.returncode == 0, done.stderr
    assert _states(commands) == ["cancelled", "succeeded"]
    let_go("squares[1]")
    again = commands.run("plan", str(tmp_path / "model.onnx"), "--max-drop", "0.5", "--out", "first", *FAKE)
    assert again.returncode == 0, again.stderr
    steps = [line.split()[0] for line in fake_model.trace_path.read_text().splitlines()]
    assert (steps.count("admit"), steps.count("squares[0]")) == (2, 2)  # once for each model


def test_the_job_of_a_killed_command_leaves_the_worker_of_a_server(
    serve, commands, fake_model, tmp_path, wait_until
) -> None:
    server = serve()
    planning = commands.start("plan", str(fake_model.write(hold=["admit"])), "--out", "first", *FAKE)
    wait_until(lambda: fake_model.pid_of("admit"))
    planning.kill()
    planning.wait()
    other = fake_model.write("other", values=[1, 2])
    done = commands.run("plan", str(other), "--max-drop", "0.5", "--out", "second", *FAKE)
    assert done.returncode == 0, done.stderr
    assert [job["state"] for job in server.http.get("/v1/jobs").json()["jobs"]] == ["succeeded", "cancelled"]


def test_jobs_of_commands_that_live_are_left_alone(commands, fake_model, wait_until, let_go) -> None:
    first = commands.start("plan", str(fake_model.write(hold=["admit"])), "--max-drop", "0.5", "--out", "first", *FAKE)
    wait_until(lambda: fake_model.pid_of("admit"))
    other = fake_model.write("other", values=[1, 2])
    second = commands.start("plan", str(other), "--max-drop", "0.5", "--out", "second", *FAKE)
    wait_until(lambda: len(list((commands.home / "commands").glob("[!.]*"))) == 2)
    wait_until(lambda: len(_states(commands)) == 2)
    assert set(_states(commands)) == {"running", "queued"}
    let_go("admit")
    assert (first.wait(), second.wait()) == (0, 0)


def test_a_closed_terminal_cancels_the_job(commands, fake_model, wait_until) -> None:
    ours, theirs = pty.openpty()
    command = commands.command("plan", str(fake_model.write(hold=["admit"])), "--out", "out", *FAKE)
    planning = subprocess.Popen(
        command,
        env=commands.environment,
        cwd=commands.folder,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        # its controlling terminal, whose end is told by SIGHUP
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(theirs)
    try:
        wait_until(lambda: fake_model.pid_of("admit"))
    finally:
        os.close(ours)
        planning.wait()
    assert planning.returncode != 0
    assert _states(commands) == ["cancelled"]

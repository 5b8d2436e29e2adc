"""Real workers on real brokers: SQLite with the broker of files, PostgreSQL with Redis. Processes are killed."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator

import psutil
import pytest

from app.dispatcher import Dispatcher
from app.services.health import condition

VALUES = list(range(10))
# In place of the fake pipeline: a job stays at the steps in `hold` until the test lets it go on.
HELD = ("--pipeline", "held_pipeline")
# What has to do with processes only is looked at on one of the two setups.
ONE_SETUP = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
STEPS = ["admit", "squares[1]", "total", "certify"]


@pytest.fixture
def dispatching(workers, sessions) -> Iterator[None]:
    """The dispatcher's loop, as in `bitbudget dispatcher`."""
    dispatcher = Dispatcher(workers.settings, sessions, workers.wake)
    thread = threading.Thread(target=dispatcher.run)
    thread.start()
    yield
    dispatcher.stop()
    thread.join()


@pytest.fixture
def finished(jobs, wait_until) -> Callable[..., None]:
    """Wait until the job has ended, and check that it ended with what it should."""

    def check(job_id: str) -> None:
        wait_until(lambda: jobs.row(job_id).state not in ("queued", "running"))
        row = jobs.row(job_id)
        assert (row.state, row.outcome, row.error_detail) == ("succeeded", "met", None)
        assert row.summary == jobs.expected(VALUES)
        assert jobs.artifact(job_id, "model") == b"\x00\x01" + b"142.5"

    return check


def test_a_whole_job_and_a_repeated_message(jobs, workers, sessions, finished, wait_until):
    workers.start()
    job_id = jobs.add(VALUES)
    workers.wake()
    workers.wake()
    finished(job_id)
    again = jobs.add(VALUES)
    workers.wake()
    finished(again)
    assert [jobs.row(i).attempt for i in (job_id, again)] == [1, 1]
    assert jobs.trace().count("admit") == 1
    wait_until(lambda: condition(sessions).workers == 1)


def test_a_lost_message_is_sent_again(jobs, workers, dispatching, finished):
    workers.start()
    finished(jobs.add(VALUES))


def test_a_child_killed_in_every_stage_costs_steps_and_not_the_job(jobs, workers, finished, wait_until, let_go):
    workers.settings = workers.settings.model_copy(update={"max_attempts": len(STEPS) + 1})
    workers.start(*HELD)
    job_id = jobs.add(VALUES, hold=STEPS)
    workers.wake()
    for step in STEPS:
        wait_until(lambda step=step: jobs.pid_of(step))
        os.kill(jobs.pid_of(step), signal.SIGKILL)
        let_go(step)
    finished(job_id)  # the worker saw its children die: there is no dispatcher, and no lease was waited for
    assert jobs.row(job_id).attempt == len(STEPS) + 1
    steps = jobs.trace()
    assert [steps.count(step) for step in STEPS] == [2] * len(STEPS)
    assert [steps.count(f"squares[{i}]") for i in range(4)] == [1, 2, 1, 1]


def test_a_killed_worker_leaves_no_child_and_its_job_goes_to_another(
    jobs, workers, dispatching, finished, wait_until, alive, let_go
):
    # A lease that does not end by itself: a process that is only slow loses nothing.
    workers.settings = workers.settings.model_copy(update={"lease_seconds": 3600.0})
    first = workers.start(*HELD)
    job_id = jobs.add(VALUES, hold=["squares[1]"])
    workers.wake()
    wait_until(lambda: jobs.pid_of("squares[1]"))
    child = jobs.pid_of("squares[1]")
    first.kill()
    first.wait()
    wait_until(lambda: not alive(child))
    let_go("squares[1]")
    jobs.change(job_id, lease_until=jobs.row(job_id).created_at)
    workers.start(*HELD)
    finished(job_id)
    assert jobs.row(job_id).attempt == 2


def test_a_stopped_worker_gives_its_job_back(jobs, workers, sessions, wait_until, finished, let_go):
    first = workers.start(*HELD)
    job_id = jobs.add(VALUES, hold=["squares[1]"])
    workers.wake()
    wait_until(lambda: jobs.pid_of("squares[1]"))
    first.terminate()
    assert first.wait() == 0
    assert jobs.row(job_id).state == "queued"
    assert condition(sessions).workers == 0
    let_go("squares[1]")
    workers.start(*HELD)
    workers.wake()
    finished(job_id)
    row = jobs.row(job_id)
    assert (row.attempt, row.fruitless) == (2, 0)


def test_an_idle_worker_stops(workers, sessions, wait_until):
    worker = workers.start()
    wait_until(lambda: condition(sessions).workers == 1)
    worker.terminate()
    assert worker.wait() == 0
    assert list(workers.settings.tmp_dir.iterdir()) == [], "what it has fetched goes with it"


@ONE_SETUP
def test_a_worker_ends_with_whoever_watches_it(workers, sessions, wait_until, jobs, alive):
    worker = workers.start("--watched", *HELD, stdin=subprocess.PIPE)
    jobs.add(VALUES, hold=["admit"])
    workers.wake()
    wait_until(lambda: jobs.pid_of("admit"))
    worker.stdin.close()
    worker.wait()
    wait_until(lambda: not alive(jobs.pid_of("admit")))


def test_a_cancelled_job_stops_and_the_worker_goes_on(jobs, workers, wait_until, finished):
    workers.start(*HELD)
    job_id, following = jobs.add([1.0], hold=["admit"]), jobs.add(VALUES)
    workers.wake()
    workers.wake()
    wait_until(lambda: jobs.pid_of("admit"))
    jobs.change(job_id, cancel_requested=True)
    wait_until(lambda: jobs.row(job_id).state == "cancelled")
    finished(following)


def test_a_job_that_kills_its_process_is_capped_and_the_next_one_runs(jobs, workers, wait_until, finished):
    workers.settings = workers.settings.model_copy(update={"max_attempts": 3})
    workers.start()
    job_id, following = jobs.add([1.0], trouble={"squares": "kill"}), jobs.add(VALUES)
    workers.wake()
    wait_until(lambda: jobs.row(job_id).state == "failed")
    row = jobs.row(job_id)
    # The first attempt stored what was admitted, so it was not fruitless.
    assert (row.error_code, row.attempt) == ("worker_lost", workers.settings.max_attempts + 1)
    workers.wake()
    finished(following)


@ONE_SETUP
@pytest.mark.parametrize("trouble", ["memory", "allocate"])
def test_memory_that_runs_out_fails_the_job_and_not_the_worker(jobs, workers, wait_until, finished, trouble):
    workers.settings = workers.settings.model_copy(update={"worker_memory_bytes": 1024**3})
    workers.start()
    job_id, following = jobs.add([1.0], trouble={"total": trouble}), jobs.add(VALUES)
    workers.wake()
    workers.wake()
    wait_until(lambda: jobs.row(job_id).state == "failed")
    assert jobs.row(job_id).error_code == "out_of_memory"
    finished(following)


@ONE_SETUP
def test_a_cancelled_job_that_does_not_listen_loses_its_process(jobs, workers, wait_until, finished, alive):
    """Inside native code that holds up its whole process: the worker ends it from outside."""
    workers.start(*HELD)
    job_id = jobs.add([1.0], trouble={"squares": "frozen"})
    workers.wake()
    wait_until(lambda: jobs.pid_of("squares[0]"))
    jobs.change(job_id, cancel_requested=True)
    wait_until(lambda: jobs.row(job_id).state == "cancelled")
    wait_until(lambda: not alive(jobs.pid_of("squares[0]")))
    following = jobs.add(VALUES)
    workers.wake()
    finished(following)


@ONE_SETUP
def test_an_idle_child_that_is_killed_is_replaced(jobs, workers, sessions, wait_until, finished):
    worker = workers.start()
    wait_until(lambda: condition(sessions).workers == 1)
    for child in psutil.Process(worker.pid).children():
        child.kill()
    workers.wake()
    finished(jobs.add(VALUES))


@ONE_SETUP
def test_a_worker_whose_pipeline_cannot_be_imported_stops(workers, sessions, wait_until):
    worker = workers.start("--pipeline", "no_such_pipeline")
    worker.wait()

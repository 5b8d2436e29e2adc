"""Jobs at a desk in this process, with real children, on both databases."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from app.lifecycle.recovery import reap
from app.settings import Settings
from app.store.engine import Sessions
from app.store.stages import get_stage_result
from app.store.tables import StageResultRow
from workers.desk import Desk

HERE = Path(__file__).parent
VALUES = list(range(10))
HELD = "held_pipeline"


@pytest.fixture
def make_desk(sessions: Sessions, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Desk]]:
    monkeypatch.setenv("PYTHONPATH", f"{HERE}:{HERE.parent.parent}")
    with ExitStack() as stack:

        def make(pipeline: str = "fake_pipeline", name: str = "here", **changes: Any) -> Desk:
            changed = settings.model_copy(update=changes)
            desk = Desk(changed, sessions, name, pipeline, lambda: None, "a processor")
            stack.callback(desk.close)
            return desk

        yield make


@pytest.fixture
def desk(make_desk: Callable[..., Desk]) -> Desk:
    return make_desk()


@contextmanager
def working(desk: Desk) -> Iterator[None]:
    """The desk is at work in a thread during the block, which waits for it."""
    thread = threading.Thread(target=desk.work)
    thread.start()
    yield
    thread.join()


def test_a_job_runs_every_stage_and_ends_with_its_results(jobs, desk):
    job_id = jobs.add(VALUES)
    assert desk.work() == 1
    row = jobs.row(job_id)
    assert (row.state, row.outcome, row.progress, row.attempt, row.fruitless) == ("succeeded", "met", 1.0, 1, 0)
    assert row.summary == jobs.expected(VALUES)
    assert jobs.artifact(job_id, "model") == b"\x00\x01" + b"142.5"
    assert ("evaluated", {"total": 285}) in jobs.events(job_id)
    assert [data["state"] for kind, data in jobs.events(job_id) if kind == "state"][-1] == "succeeded"
    assert desk.work() == 0


def test_a_second_budget_runs_only_what_depends_on_it(jobs, desk):
    jobs.add(VALUES)
    desk.work()
    before = jobs.trace()
    second = jobs.add(VALUES, factor=0.25)
    desk.work()
    assert jobs.trace()[len(before) :] == ["total", "certify"]
    assert jobs.row(second).summary == jobs.expected(VALUES, factor=0.25)


def test_the_same_job_again_runs_nothing(jobs, desk):
    first = jobs.add(VALUES)
    desk.work()
    before = jobs.trace()
    second = jobs.add(VALUES)
    desk.work()
    assert jobs.trace() == before
    assert jobs.artifact(second, "model") == jobs.artifact(first, "model")


def test_other_data_do_not_reuse_what_read_the_data(jobs, desk):
    jobs.add(VALUES)
    second = jobs.add(VALUES, data="other data")
    assert desk.work() == 2
    assert jobs.row(second).summary == jobs.expected(VALUES, data="other data")


def test_chunks_are_forgotten_when_their_stage_is_stored(jobs, desk, sessions):
    jobs.add(VALUES)
    desk.work()
    with sessions.read() as session:
        keys = [row.key for row in session.query(StageResultRow)]
    assert len(keys) == 4
    assert all("/" not in key for key in keys)
    assert all(get_stage_result(sessions, key) is not None for key in keys)


def test_a_stored_request_that_this_version_refuses_ends_its_job_with_the_reason(jobs, desk):
    job_id = jobs.add(VALUES)
    jobs.change(job_id, request={**jobs.row(job_id).request, "flavor": "sweet"})
    desk.work()
    row = jobs.row(job_id)
    assert row.error_code == "request_invalid"
    assert "flavor" in row.error_detail


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    ("trouble", "code", "says"),
    [
        ("refused", "model_invalid", "send numbers"),
        ("memory", "out_of_memory", "BITBUDGET_WORKER_MEMORY_BYTES"),
        ("torch memory", "out_of_memory", "BITBUDGET_WORKER_MEMORY_BYTES"),
        ("fault", "internal", "KeyError"),
        ("slow", "time_limit", "deadline_seconds"),
        ("frozen", "time_limit", "deadline_seconds"),
    ],
)
def test_what_a_stage_raises_ends_the_job_with_a_code_and_a_remedy(jobs, desk, trouble, code, says, caplog):
    job_id, following = jobs.add(VALUES, trouble={"total": trouble}), jobs.add(VALUES)
    assert desk.work() == 2
    row = jobs.row(job_id)
    assert (row.state, row.error_code) == ("failed", code)
    assert says in row.error_detail
    assert "total" in row.error_detail or trouble == "refused"
    assert "/secret/path" not in row.error_detail
    assert ("/secret/path" in caplog.text) == (trouble == "fault"), "the log has what the job does not say"
    assert jobs.row(following).state == "succeeded", "the next job is none the worse"


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("trouble", ["lies", "babbles", "floods"])
def test_a_child_that_does_not_keep_to_the_protocol_is_ended(jobs, desk, settings, trouble):
    """What a file that has taken over the process may send."""
    job_id, following = jobs.add([1.0], trouble={"admit": trouble}), jobs.add(VALUES)
    assert desk.work() == settings.max_attempts + 1
    row = jobs.row(job_id)
    assert (row.state, row.error_code) == ("failed", "worker_lost")
    assert jobs.row(following).state == "succeeded"


def test_a_cancelled_job_stops_at_the_step_that_it_is_at(jobs, make_desk, wait_until, alive):
    job_id = jobs.add(VALUES, hold=["squares[1]"])
    with working(make_desk(HELD)):
        wait_until(lambda: "squares[1]" in jobs.trace())
        jobs.change(job_id, cancel_requested=True)
    assert jobs.row(job_id).state == "cancelled"
    assert jobs.trace() == ["admit", "squares[0]", "squares[1]"]
    assert not alive(jobs.pid_of("squares[1]"))


def test_a_worker_that_lost_its_lease_stops_and_writes_nothing(jobs, make_desk, wait_until, sessions):
    job_id = jobs.add(VALUES, hold=["admit"])
    desk = make_desk(HELD)
    with working(desk):
        wait_until(lambda: jobs.trace())
        assert reap(sessions, 3, now=datetime.now(UTC) + timedelta(minutes=1)).requeued == (job_id,)
        wait_until(lambda: jobs.row(job_id).attempt == 2)  # it is there to be claimed again
        desk.stop()
    row = jobs.row(job_id)
    assert (row.state, row.error_code) == ("queued", None)


def test_a_worker_that_is_stopped_gives_its_job_back_without_counting_the_attempt(jobs, make_desk, wait_until, let_go):
    job_id = jobs.add(VALUES, hold=["squares[0]"])
    desk = make_desk(HELD)
    with working(desk):
        wait_until(lambda: "squares[0]" in jobs.trace())
        desk.stop()
    row = jobs.row(job_id)
    assert (row.state, row.attempt, row.fruitless) == ("queued", 1, 0)
    assert desk.work() == 0, "it stops, so it takes no more"
    let_go("squares[0]")
    assert make_desk(HELD, "next").work() == 1
    assert jobs.row(job_id).state == "succeeded"
    assert jobs.trace().count("admit") == 1


def test_a_job_resumes_after_the_last_finished_chunk(jobs, make_desk, wait_until, let_go):
    job_id = jobs.add(VALUES, hold=["squares[2]"])
    desk = make_desk(HELD)
    with working(desk):
        wait_until(lambda: "squares[2]" in jobs.trace())
        desk.stop()
    let_go("squares[2]")
    make_desk(HELD, "next").work()
    steps = jobs.trace()
    assert [steps.count(f"squares[{i}]") for i in range(4)] == [1, 1, 2, 1]
    assert jobs.row(job_id).summary == jobs.expected(VALUES)


def test_progress_grows_and_eta_appears(jobs, make_desk, wait_until, let_go):
    """Of stages that weigh 1, 4, 1 and 2 the second is half done, and then the last is to begin."""
    job_id = jobs.add(VALUES, hold=["squares[2]", "certify"])

    def at(stage: str, progress: float) -> bool:
        row = jobs.row(job_id)
        return (row.stage, row.progress) == (stage, progress)

    with working(make_desk(HELD)):
        wait_until(lambda: at("squares", 3 / 8))
        assert jobs.row(job_id).eta_seconds > 0
        let_go("squares[2]")
        wait_until(lambda: at("certify", 6 / 8))
        let_go("certify")
    assert jobs.row(job_id).progress == 1.0


def test_no_job_meets_what_a_job_of_another_project_left(jobs, desk, sessions):
    """One process may work for one project: a file that has taken it over shall see nothing of others."""
    first, second = jobs.add(VALUES), jobs.add([1.0, 2.0])
    desk.work()
    pids = [jobs.pid_of("admit")]
    jobs.give_to(jobs.add([3.0]), "another")
    desk.work()
    pids.append(jobs.pid_of("admit"))
    assert len(set(pids)) == 2
    assert jobs.row(first).state == jobs.row(second).state == "succeeded"
    assert jobs.trace().count("admit") == 3


@pytest.mark.parametrize(("trouble", "processes"), [("refused", 1), ("memory", 2), ("fault", 2)])
def test_a_process_that_refuses_an_upload_in_order_takes_the_next_job(jobs, desk, trouble, processes):
    """Loading torch takes seconds; what ran out of memory or into a mistake of ours is of no more use."""
    jobs.add(VALUES, trouble={"squares": trouble})
    desk.work()
    pids = {jobs.pid_of("admit")}
    last = jobs.add([1.0, 2.0])
    desk.work()
    pids.add(jobs.pid_of("admit"))
    assert len(pids) == processes
    assert jobs.row(last).state == "succeeded"


def test_a_process_that_holds_on_to_memory_takes_no_other_job(jobs, make_desk):
    """Of a library that ran out of memory: the next job would find no room, and wait for its threads for ever."""
    desk = make_desk(worker_memory_bytes=1024**3)
    jobs.add(VALUES, trouble={"squares": "keeps"})
    desk.work()
    pids = {jobs.pid_of("admit")}
    jobs.add([1.0, 2.0])
    jobs.add([3.0])
    desk.work()
    pids.add(jobs.pid_of("admit"))
    assert len(pids) == 2
    assert len({line.split()[1] for line in jobs._trace_lines()}) == 2, "the last two shared a process"

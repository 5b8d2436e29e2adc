"""One job in this process, on both databases."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import ModuleType
from typing import Any

import pytest

from app.lifecycle.recovery import reap
from app.settings import Settings
from app.store.engine import Sessions
from app.store.stages import get_stage_result
from app.store.tables import StageResultRow
from pipeline.stage import JobResult, Table
from workers.job import End, Worker

VALUES = list(range(10))


@pytest.fixture
def make_worker(sessions: Sessions, settings: Settings, fake_pipeline: ModuleType) -> Callable[..., Worker]:
    def make(owner: str = "here", **changes: Any) -> Worker:
        return Worker(sessions, settings.model_copy(update=changes), owner, fake_pipeline.TABLE)

    return make


def test_a_job_runs_every_stage_and_ends_with_its_results(jobs, make_worker):
    job_id = jobs.add(VALUES)
    assert make_worker().run(job_id) is End.FINISHED
    row = jobs.row(job_id)
    assert (row.state, row.outcome, row.progress, row.attempt) == ("succeeded", "met", 1.0, 1)
    assert row.summary == jobs.expected(VALUES)
    assert jobs.artifact(job_id, "model") == b"\x00\x01" + b"142.5"
    assert ("evaluated", {"total": 285}) in jobs.events(job_id)
    assert [data["state"] for kind, data in jobs.events(job_id) if kind == "state"][-1] == "succeeded"


def test_a_second_budget_runs_only_what_depends_on_it(jobs, make_worker):
    worker = make_worker()
    worker.run(jobs.add(VALUES))
    before = jobs.trace()
    second = jobs.add(VALUES, factor=0.25)
    assert worker.run(second) is End.FINISHED
    assert jobs.trace()[len(before) :] == ["total", "certify"]
    assert jobs.row(second).summary == jobs.expected(VALUES, factor=0.25)


def test_the_same_job_again_runs_nothing(jobs, make_worker):
    worker = make_worker()
    first, second = jobs.add(VALUES), jobs.add(VALUES)
    worker.run(first)
    before = jobs.trace()
    assert worker.run(second) is End.FINISHED
    assert jobs.trace() == before
    assert jobs.artifact(second, "model") == jobs.artifact(first, "model")


def test_other_data_do_not_reuse_what_read_the_data(jobs, make_worker):
    worker = make_worker()
    worker.run(jobs.add(VALUES))
    second = jobs.add(VALUES, data="other data")
    worker.run(second)
    assert jobs.row(second).summary == jobs.expected(VALUES, data="other data")


def test_a_stage_reads_only_what_its_key_depends_on(jobs, sessions, settings, fake_pipeline, caplog):
    """A result that `reads` does not name is not in the key: another job would find a blob made from other inputs."""
    first = fake_pipeline.TABLE.stages[0]
    curious = replace(first, name="squares", run=lambda context, _: context.read(first.name))
    table = replace(fake_pipeline.TABLE, stages=(first, curious))
    worker = Worker(sessions, settings, "here", table)
    job_id = jobs.add(VALUES)
    assert worker.run(job_id) is End.FAILED
    assert jobs.row(job_id).error_code == "internal"
    assert f"the stage squares reads {first.name}, which its `reads` do not name" in caplog.text


def test_chunks_are_forgotten_when_their_stage_is_stored(jobs, make_worker, sessions):
    make_worker().run(jobs.add(VALUES))
    with sessions.read() as session:
        keys = [row.key for row in session.query(StageResultRow)]
    assert len(keys) == 4
    assert all("/" not in key for key in keys)
    assert all(get_stage_result(sessions, key) is not None for key in keys)


def test_what_is_cached_is_computed_once_for_all_jobs(jobs, sessions, settings, fake_pipeline):
    computed = []

    def run(context, _config):
        return context.cached("speed of this machine", lambda: computed.append(1) or b"fast")

    stage = replace(fake_pipeline.TABLE.stages[0], reads=("model", "dataset"), run=run)
    worker = Worker(sessions, settings, "here", replace(fake_pipeline.TABLE, stages=(stage,), report=nothing))
    for data in ("some data", "other data"):
        assert worker.run(jobs.add(VALUES, data=data)) is End.FINISHED
    assert computed == [1]
    with sessions.read() as session:
        keys = [row.key for row in session.query(StageResultRow)]
    assert len(keys) == 3
    assert sum(key.startswith("cached/") for key in keys) == 1


def test_the_request_of_an_older_version_gets_defaults_and_loses_what_is_no_longer_there(
    jobs, sessions, settings, fake_pipeline
):
    seen = []

    def configure(request, *arguments):
        seen.append(request.model_dump(mode="json"))
        return fake_pipeline.configure(request, *arguments)

    stages = fake_pipeline.TABLE.stages[:1]
    worker = Worker(sessions, settings, "here", Table(stages, configure, nothing))
    newest, older = jobs.add(VALUES), jobs.add([1.0])
    stored = jobs.row(newest).request
    weights = {name: value for name, value in stored["weights"].items() if name != "formats"}
    weights |= {"refinement": "adaround", "adaround_seconds": 60.0}
    without = {name: value for name, value in jobs.row(older).request.items() if name not in ("plan", "target")}
    jobs.change(older, request={**without, "weights": weights})
    for job_id in (newest, older):
        assert worker.run(job_id) is End.FINISHED
    assert seen[0] == stored
    expected = {**stored, "weights": {**stored["weights"], "refinement": "sequential"}}
    assert seen[1] == {**expected, "model_id": jobs.row(older).model_id}


def nothing(_context, _config):
    return JobResult("met", {}, {})


def test_a_stored_request_that_this_version_refuses_ends_its_job_with_the_reason(jobs, make_worker):
    job_id = jobs.add(VALUES)
    jobs.change(job_id, request={**jobs.row(job_id).request, "flavor": "sweet"})
    assert make_worker().run(job_id) is End.FAILED
    row = jobs.row(job_id)
    assert row.error_code == "request_invalid"
    assert "flavor" in row.error_detail


def test_a_message_that_comes_twice_runs_the_job_once(jobs, make_worker):
    job_id = jobs.add(VALUES)
    worker = make_worker()
    assert worker.run(job_id) is End.FINISHED
    assert worker.run(job_id) is End.NOT_CLAIMED
    assert make_worker("another").run("0" * 32) is End.NOT_CLAIMED
    assert jobs.row(job_id).attempt == 1


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    ("trouble", "code", "says"),
    [
        ("refused", "model_invalid", "send numbers"),
        ("memory", "out_of_memory", "BITBUDGET_WORKER_MEMORY_BYTES"),
        ("torch memory", "out_of_memory", "BITBUDGET_WORKER_MEMORY_BYTES"),
        ("fault", "internal", "KeyError"),
        ("slow", "time_limit", "deadline_seconds"),
    ],
)
def test_what_a_stage_raises_ends_the_job_with_a_code_and_a_remedy(jobs, make_worker, trouble, code, says):
    worker = make_worker()
    job_id = jobs.add(VALUES, trouble={"total": trouble})
    assert worker.run(job_id) is End.FAILED
    row = jobs.row(job_id)
    assert (row.state, row.error_code) == ("failed", code)
    assert says in row.error_detail
    assert "total" in row.error_detail or trouble == "refused"
    assert "/secret/path" not in row.error_detail
    # the next job of the same worker is none the worse
    assert worker.run(jobs.add(VALUES)) is End.FINISHED


def test_a_cancelled_job_stops_at_the_step_that_it_is_at(jobs, make_worker, wait_until):
    job_id = jobs.add(VALUES, hold=["squares[1]"])
    with running(make_worker(), job_id) as ended:
        wait_until(lambda: "squares[1]" in jobs.trace())
        jobs.change(job_id, cancel_requested=True)
    assert ended == [End.CANCELLED]
    assert jobs.row(job_id).state == "cancelled"
    assert jobs.trace() == ["admit", "squares[0]", "squares[1]"]


def test_a_worker_that_lost_its_lease_stops_and_writes_nothing(jobs, make_worker, wait_until, sessions):
    job_id = jobs.add(VALUES, hold=["admit"])
    with running(make_worker(), job_id) as ended:
        wait_until(lambda: jobs.trace())
        assert reap(sessions, 3, now=datetime.now(UTC) + timedelta(minutes=1)).requeued == (job_id,)
    assert ended == [End.LOST]
    row = jobs.row(job_id)
    assert (row.state, row.error_code) == ("queued", None)


def test_a_worker_that_is_stopped_gives_its_job_back_without_counting_the_attempt(
    jobs, make_worker, wait_until, let_go
):
    job_id = jobs.add(VALUES, hold=["squares[0]"])
    worker = make_worker()
    with running(worker, job_id) as ended:
        wait_until(lambda: "squares[0]" in jobs.trace())
        worker.stop()
    assert ended == [End.GIVEN_BACK]
    assert jobs.row(job_id).state == "queued"
    assert worker.run(job_id) is End.NOT_CLAIMED  # it stops, so it takes no more
    let_go("squares[0]")
    assert make_worker("next").run(job_id) is End.FINISHED
    row = jobs.row(job_id)
    assert row.attempt - row.released == 1
    assert jobs.trace().count("admit") == 1


def test_a_job_resumes_after_the_last_finished_chunk(jobs, make_worker, wait_until, let_go):
    job_id = jobs.add(VALUES, hold=["squares[2]"])
    worker = make_worker()
    with running(worker, job_id):
        wait_until(lambda: "squares[2]" in jobs.trace())
        worker.stop()
    let_go("squares[2]")
    make_worker("next").run(job_id)
    steps = jobs.trace()
    assert [steps.count(f"squares[{i}]") for i in range(4)] == [1, 1, 2, 1]
    assert jobs.row(job_id).summary == jobs.expected(VALUES)


def test_a_job_that_does_not_listen_is_ended_with_its_process(jobs, make_worker, wait_until):
    """A long native call asks for nothing; the heartbeat ends the job, and then the process, here only in name."""
    job_id = jobs.add(VALUES, trouble={"total": "deaf"})
    worker = make_worker()
    ended = threading.Event()
    worker.end_process = ended.set
    worker.grace = timedelta(seconds=0.2)
    with running(worker, job_id):
        wait_until(lambda: "total" in jobs.trace())
        jobs.change(job_id, cancel_requested=True)
        ended.wait()
        assert jobs.row(job_id).state == "cancelled"
        jobs.wake()


def test_a_stage_that_does_not_end_fails_the_job_with_its_process(jobs, make_worker):
    job_id = jobs.add(VALUES, trouble={"total": "deaf"})
    worker = make_worker()
    ended = threading.Event()
    worker.end_process = ended.set
    worker.grace = timedelta(seconds=0.2)
    with running(worker, job_id) as end:
        ended.wait()
        row = jobs.row(job_id)
        assert (row.state, row.error_code) == ("failed", "time_limit")
        jobs.wake()
    assert end == [End.LOST]


def test_progress_grows_and_eta_appears(jobs, make_worker, wait_until, let_go):
    """Of stages that weigh 1, 4, 1 and 2 the second is half done, and then the last is to begin."""
    job_id = jobs.add(VALUES, hold=["squares[2]", "certify"])

    def at(stage: str, progress: float) -> bool:
        row = jobs.row(job_id)
        return (row.stage, row.progress) == (stage, progress)

    with running(make_worker(), job_id) as ended:
        wait_until(lambda: at("squares", 3 / 8))
        assert jobs.row(job_id).eta_seconds > 0
        let_go("squares[2]")
        wait_until(lambda: at("certify", 6 / 8))
        let_go("certify")
    assert ended == [End.FINISHED]
    assert jobs.row(job_id).progress == 1.0


class running:  # noqa: N801 - reads as a statement
    """The job runs in a thread during the block, which waits for its end; `as` is a list with the end in it."""

    def __init__(self, worker: Worker, job_id: str) -> None:
        self._ended: list[End] = []
        self._thread = threading.Thread(target=lambda: self._ended.append(worker.run(job_id)))

    def __enter__(self) -> list[End]:
        self._thread.start()
        return self._ended

    def __exit__(self, *_: object) -> None:
        self._thread.join()

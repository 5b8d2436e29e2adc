"""One job on two workers, which the broker of files cannot have: on PostgreSQL and Redis."""

from __future__ import annotations

import os
import signal
from collections import Counter

import pytest

PIPELINE = ("--pipeline", "spread_pipeline")
VALUES = list(range(40))
TOTAL = sum(value * value for value in VALUES)


def _finished(jobs, job_id, wait_until):
    wait_until(lambda: jobs.row(job_id).state not in ("queued", "running"))
    row = jobs.row(job_id)
    assert (row.state, row.summary, row.error_detail) == ("succeeded", {"total": TOTAL}, None)


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_an_idle_worker_takes_chunks_of_the_job_of_another(jobs, workers, wait_until):
    """The pipeline ends only if a second process comes: the message that calls for help has to reach one."""
    workers.start(*PIPELINE)
    workers.start(*PIPELINE)
    job_id = jobs.add(VALUES)
    workers.wake()
    _finished(jobs, job_id, wait_until)
    assert jobs.row(job_id).attempt == 1
    assert set(Counter(jobs.trace()).values()) == {1}, "no chunk is computed twice"
    assert len(jobs.trace()) == 16


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_process_that_is_killed_loses_its_chunk_and_not_the_job(jobs, workers, wait_until):
    workers.start(*PIPELINE)
    job_id = jobs.add(VALUES)
    workers.wake()
    wait_until(lambda: jobs.trace())
    (alone,) = jobs.trace()
    os.kill(jobs.pid_of(alone), signal.SIGKILL)  # it waits for another process, which now is its successor
    _finished(jobs, job_id, wait_until)
    counts = Counter(jobs.trace())
    assert counts.pop(alone) == 2
    assert set(counts.values()) == {1}
    assert len(counts) == 15

"""Databases and brokers that go away while a job runs and come back: the job finishes, and nothing runs twice."""

from __future__ import annotations

import shutil
import socket
import subprocess
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import redis
from sqlalchemy import make_url, text

from app.dispatcher import Dispatcher
from app.settings import Settings

VALUES = list(range(10))


@pytest.fixture
def name() -> str:
    return f"victim-{uuid.uuid4().hex}"


@contextmanager
def dispatching(settings: Settings, sessions, wake) -> Iterator[None]:
    dispatcher = Dispatcher(settings, sessions, wake)
    thread = threading.Thread(target=dispatcher.run)
    thread.start()
    yield
    dispatcher.stop()
    thread.join()


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_job_survives_a_database_that_drops_every_connection(
    database_url, jobs, make_settings, workers_on, wait_until, let_go, name
):
    """What a restart of PostgreSQL does to its clients, done to this worker only, again and again."""
    url = make_url(database_url).update_query_dict({"application_name": name}).render_as_string(hide_password=False)
    workers = workers_on(make_settings(url))
    workers.start("--pipeline", "held_pipeline")
    steps = ["squares[0]", "squares[1]", "total"]
    job_id = jobs.add(VALUES, hold=steps)
    workers.wake()
    drop = text("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = :name")
    for step in steps:
        wait_until(lambda step=step: jobs.pid_of(step))
        for _ in range(3):  # each time when the worker has connected anew

            def dropped() -> int:
                with jobs.sessions.begin() as session:
                    return session.scalar(drop.bindparams(name=name))

            wait_until(dropped)
        let_go(step)
    wait_until(lambda: jobs.row(job_id).state not in ("queued", "running"))
    row = jobs.row(job_id)
    assert (row.state, row.summary, row.attempt) == ("succeeded", jobs.expected(VALUES), 1)
    assert jobs.trace().count("admit") == 1


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_redis_that_was_away_and_lost_its_messages_costs_no_job(
    database_url, sessions, jobs, make_settings, workers_on, wait_until
):
    if shutil.which("redis-server") is None:
        pytest.skip("this test starts and stops a Redis of its own, and redis-server is not installed")
    port = _free_port()
    # A lease that does not end by itself: a process that is only slow loses nothing.
    settings = make_settings(database_url, broker_url=f"redis://127.0.0.1:{port}/0", lease_seconds=3600.0)
    workers = workers_on(settings)
    with _redis(port, wait_until):
        workers.start()
        first = jobs.add(VALUES)
        workers.wake()
        wait_until(lambda: jobs.row(first).state == "succeeded")
    second = jobs.add(VALUES, factor=0.25)
    workers.wake()  # nobody hears it, which is logged and no error
    with _redis(port, wait_until), dispatching(workers.settings, sessions, workers.wake):
        wait_until(lambda: jobs.row(second).state == "succeeded")
    assert jobs.row(second).summary == jobs.expected(VALUES, factor=0.25)
    assert jobs.row(second).attempt == 1


@contextmanager
def _redis(port: int, wait_until) -> Iterator[None]:
    """A Redis without memory of the one before."""
    process = subprocess.Popen(
        ["redis-server", "--port", str(port), "--save", "", "--appendonly", "no", "--bind", "127.0.0.1"],
        stdout=subprocess.DEVNULL,
    )
    try:
        with redis.Redis(port=port) as client:
            wait_until(lambda: _answers(client))
        yield
    finally:
        process.terminate()
        process.wait()


def _answers(client: redis.Redis) -> bool:
    try:
        return client.ping()
    except redis.ConnectionError:
        return False


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]

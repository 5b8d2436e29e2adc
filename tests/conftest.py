"""Databases and brokers for every test that needs one: the same tests run on the embedded and on the team setup.

SQLite and the file broker are always there. PostgreSQL and Redis are looked for at BITBUDGET_TEST_DATABASE_URL and
BITBUDGET_TEST_REDIS_URL; where they are missing, their tests are skipped, and fail where CI=true promises them.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

# Test processes run side by side. Threads that each of them would start for its matrix products would spin against each
# other: on busy cores that takes twenty times as long. Before anything imports numpy or torch.
for threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(threads, "1")
# Nor does ONNX Runtime report from tests that load it themselves.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

if TYPE_CHECKING:
    from app.store.engine import Sessions

POSTGRESQL_URL = os.environ.get("BITBUDGET_TEST_DATABASE_URL", "postgresql+psycopg://postgres@127.0.0.1:5432/test")
REDIS_URL = os.environ.get("BITBUDGET_TEST_REDIS_URL", "redis://127.0.0.1:6379/15")


def _missing(what: str, error: Exception) -> None:
    reason = f"{what} is not there: {str(error).splitlines()[0]}"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of a new database with the current schema, once for each kind of database."""
    from app.store.migrate import upgrade

    if request.param == "postgresql":
        return str(request.getfixturevalue("postgresql_url"))
    url = f"sqlite:///{tmp_path / 'bitbudget.db'}"
    upgrade(url)
    return url


@pytest.fixture
def postgresql_url(postgresql_is_there: None) -> Iterator[str]:
    """URL of a new PostgreSQL schema with the current tables."""
    from app.store.migrate import upgrade

    schema = f"test_{uuid.uuid4().hex}"
    _postgresql(f"CREATE SCHEMA {schema}")
    joint = "&" if "?" in POSTGRESQL_URL else "?"
    url = f"{POSTGRESQL_URL}{joint}options={quote(f'-csearch_path={schema}')}"
    try:
        upgrade(url)
        yield url
    finally:
        # A child process that a test has killed may still be about to die with its locks.
        _postgresql(f"SET lock_timeout = '30s'; DROP SCHEMA {schema} CASCADE")


@pytest.fixture(scope="session")
def postgresql_is_there() -> None:
    import psycopg

    try:
        _postgresql("SELECT 1")
    except psycopg.OperationalError as error:
        _missing("PostgreSQL (BITBUDGET_TEST_DATABASE_URL)", error)


def _postgresql(statement: str) -> None:
    import psycopg

    with psycopg.connect(
        POSTGRESQL_URL.replace("postgresql+psycopg", "postgresql"), autocommit=True, connect_timeout=5
    ) as connection:
        connection.execute(statement)


@pytest.fixture
def sessions(database_url: str) -> Iterator[Sessions]:
    """Sessions on `database_url`, about the project that everything belongs to where no keys are asked for."""
    from app.store.engine import open_sessions
    from app.store.tables import DEFAULT_PROJECT

    opened = open_sessions(database_url).of(DEFAULT_PROJECT)
    yield opened
    opened.dispose()


@pytest.fixture
def redis_url() -> Iterator[str]:
    """URL of an empty Redis database that no other test uses meanwhile. Empties the one at BITBUDGET_TEST_REDIS_URL!"""
    import redis

    client = redis.Redis.from_url(REDIS_URL, socket_connect_timeout=5)
    try:
        client.ping()
    except redis.RedisError as error:
        client.close()
        _missing("Redis (BITBUDGET_TEST_REDIS_URL)", error)
    # A lock of the kernel: it goes with a test run that is killed, as a key in Redis would not.
    name = hashlib.sha256(REDIS_URL.encode()).hexdigest()[:16]
    with (Path(tempfile.gettempdir()) / f"bitbudget-tests-{name}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        client.flushdb()
        yield REDIS_URL
        client.flushdb()
    client.close()


@pytest.fixture
def wait_until() -> Callable[[Callable[[], object]], None]:
    """`wait_until(condition)`: returns when the condition holds. One that never does ends the test by its time limit,
    which no slow machine reaches."""

    def wait(condition: Callable[[], object]) -> None:
        while not condition():
            time.sleep(0.02)

    return wait


@pytest.fixture
def let_go(tmp_path: Path) -> Callable[[str], None]:
    """`let_go(step)`: the job of the fake pipeline that is held at this step goes on."""
    return lambda step: (tmp_path / f"trace.go {step}").touch()

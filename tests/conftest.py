"""Databases and brokers for every test that needs one: the same tests run on the embedded and on the team setup.

SQLite and the file broker are always there. PostgreSQL and Redis are looked for at BITBUDGET_TEST_DATABASE_URL and
BITBUDGET_TEST_REDIS_URL; where they are missing, their tests are skipped, and fail where CI=true promises them.
"""

from __future__ import annotations

import fcntl
import gc
import hashlib
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

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


# Files of which single tests take many seconds: they begin first, so that no process ends long after the others.
LONG = ("app/test_contract", "e2e/", "browser/", "docs/", "app/test_isolation", "workers/", "pipeline/", "hostile/")


def pytest_xdist_auto_num_workers() -> int:
    """Three for two cores: a third of their time tests wait for services, browsers and databases."""
    return max(2, 3 * (os.cpu_count() or 1) // 2)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """`make test` hands files out in the order of their tests."""

    def turn(item: pytest.Item) -> int:
        path = item.path.as_posix()
        return next((place for place, long in enumerate(LONG) if f"/tests/{long}" in path), len(LONG))

    items.sort(key=turn)


@pytest.fixture(scope="module", autouse=True)
def _collector_leaves_imports_alone() -> None:
    """The collector looks through nothing that was there before this file: of all files' tests and of what they import
    that took 0.4 s, each time that a network is normalised and at the end of every stage of a job."""
    gc.collect()
    gc.freeze()


def _missing(what: str, error: Exception) -> None:
    reason = f"{what} is not there: {str(error).splitlines()[0]}"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """URL of a database with the current schema and nothing else, once for each kind of database."""
    if request.param == "postgresql":
        request.getfixturevalue("postgresql_is_there")
        with request.getfixturevalue("postgresql_schemas").one() as url:
            yield url
    else:
        path = tmp_path / "bitbudget.db"
        shutil.copy(request.getfixturevalue("sqlite_template"), path)
        yield f"sqlite:///{path}"


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from app.store.migrate import upgrade

    path = tmp_path_factory.mktemp("template") / "bitbudget.db"
    upgrade(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="session")
def postgresql_schemas() -> Iterator[Schemas]:
    schemas = Schemas()
    yield schemas
    schemas.close()


@pytest.fixture
def postgresql_url(postgresql_is_there: None) -> Iterator[str]:
    """URL of a new PostgreSQL schema with the current tables, for tests that change these."""
    schemas = Schemas()
    with schemas.one() as url:
        yield url
    schemas.close()


class Schemas:
    """PostgreSQL schemas with the current tables: to make one takes far longer than to empty it."""

    def __init__(self) -> None:
        self._free: list[Schema] = []

    @contextmanager
    def one(self) -> Iterator[str]:
        """The URL of a schema that nobody else uses. It is used again unless a process that the test started may still
        be at work in it."""
        schema = self._free.pop() if self._free else Schema()
        ended = False
        try:
            yield schema.url
            ended = True
        finally:
            if ended and schema.emptied():
                self._free.append(schema)
            else:
                schema.drop()

    def close(self) -> None:
        for schema in self._free:
            schema.drop()


class Schema:
    """A schema with the current tables, and the rows that it has from the beginning."""

    def __init__(self) -> None:
        from app.store.engine import make_engine
        from app.store.migrate import upgrade
        from app.store.tables import Base

        self._name = f"test_{uuid.uuid4().hex}"
        joint = "&" if "?" in POSTGRESQL_URL else "?"
        options = quote(f"-csearch_path={self._name}")
        self.url = f"{POSTGRESQL_URL}{joint}options={options}&application_name={self._name}"
        _postgresql(f"CREATE SCHEMA {self._name}")
        upgrade(self.url)
        self._tables = Base.metadata.sorted_tables
        engine = make_engine(self.url)
        with engine.begin() as connection:
            self._rows = {
                table: [dict(row._mapping) for row in connection.execute(table.select())] for table in self._tables
            }
        engine.dispose()

    def emptied(self) -> bool:
        """Put it back to how it began; False where somebody is still connected to it."""
        from app.store.engine import make_engine

        engine = make_engine(self.url)
        try:
            with engine.begin() as connection:
                count = "SELECT count(*) FROM pg_stat_activity WHERE application_name = :name"
                if connection.execute(text(count), {"name": self._name}).scalar_one() > 1:
                    return False
                for table in reversed(self._tables):
                    connection.execute(table.delete())
                for table, rows in self._rows.items():
                    if rows:
                        connection.execute(table.insert(), [dict(row) for row in rows])
            return True
        except SQLAlchemyError:  # the test took tables away
            return False
        finally:
            engine.dispose()

    def drop(self) -> None:
        # A child process that a test has killed may still be about to die with its locks.
        _postgresql(f"SET lock_timeout = '30s'; DROP SCHEMA {self._name} CASCADE")


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

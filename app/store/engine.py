"""Engines and sessions. Nothing here happens at import: a process makes its own `Sessions` after it was started."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from typing import Any

from sqlalchemy import Connection, DateTime, Engine, create_engine, event, func, make_url, select
from sqlalchemy.orm import Session, sessionmaker

from app.store.objects import Objects
from app.store.quotas import NO_QUOTAS, Quotas

BUSY_SECONDS = 30.0
_READS = "bitbudget_reads"
_PROJECT = "project_id"
_KEY = "key_id"
_QUOTAS = "quotas"

# NaN is not JSON: PostgreSQL would refuse it and SQLite would not, so it is refused before either sees it.
_to_json = partial(json.dumps, allow_nan=False)


# A host that is gone, or a firewall that forgot the connection, is an error within half a minute and not within hours.
_POSTGRESQL = {
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}


def make_engine(database_url: str) -> Engine:
    """An engine for SQLite or PostgreSQL; connects on first use only.

    Raises:
        ValueError: the URL names another kind of database.
    """
    url = make_url(database_url)
    if url.get_backend_name() == "sqlite":
        engine = create_engine(url, json_serializer=_to_json, connect_args={"timeout": BUSY_SECONDS})
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    if url.drivername == "postgresql+psycopg":
        # pre_ping: a restarted database costs one round trip instead of one failed request per pooled connection.
        return create_engine(url, json_serializer=_to_json, pool_pre_ping=True, connect_args=_POSTGRESQL)
    raise ValueError(
        f"database_url must begin with sqlite:/// or postgresql+psycopg://, got {url.drivername}://; set "
        "BITBUDGET_DATABASE_URL"
    )


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    # The driver's own transaction control begins transactions late, and never before a SELECT, so that a read
    # followed by a write is not one transaction. None switches it off; `_begin_sqlite` sends the BEGIN.
    connection.isolation_level = None
    cursor = connection.cursor()
    # Lets `app.store.room` give free pages back to the disk. A new file only: later it changes nothing, but writes, and
    # every new connection would wait for whoever writes.
    if cursor.execute("PRAGMA page_count").fetchone()[0] == 0:
        cursor.execute("PRAGMA auto_vacuum=INCREMENTAL")
    cursor.execute("PRAGMA journal_mode=WAL")  # readers and the one writer do not wait for each other
    cursor.execute("PRAGMA synchronous=FULL")  # NORMAL may lose the last commits when the power fails: accepted jobs
    cursor.execute("PRAGMA foreign_keys=ON")  # off by default, and per connection
    cursor.execute("PRAGMA journal_size_limit=67108864")  # a large upload would leave its whole size in the WAL file
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    # A deferred transaction that reads and then writes fails at once with SQLITE_BUSY when somebody wrote in between;
    # the busy timeout does not apply there. Writers therefore take the lock when they begin, and wait for it.
    reads = connection.get_execution_options().get(_READS, False)
    connection.exec_driver_sql("BEGIN DEFERRED" if reads else "BEGIN IMMEDIATE")


class Sessions:
    """Transactions on one database: `begin()` to write, `read()` to read. Thread-safe; not for use across processes.

    Args:
        project_id: the project whose rows the transactions are about. Statements on what belongs to a project ask
            `project_of`, so that a transaction without one cannot reach them.
        key_id: the key of whoever asks for the changes; None: no key, or the service itself.
        quotas: what the project may take; services that store something ask for them.
        objects: what of the contents lies beside the database; by default nothing goes there.
    """

    def __init__(
        self,
        engine: Engine,
        project_id: str | None = None,
        key_id: str | None = None,
        quotas: Quotas = NO_QUOTAS,
        objects: Objects | None = None,
    ) -> None:
        self.engine = engine
        self.objects = objects or Objects()
        self.project_id = project_id
        self.key_id = key_id
        self.quotas = quotas
        info = {_PROJECT: project_id, _KEY: key_id, _QUOTAS: quotas}
        self._writing = sessionmaker(engine, expire_on_commit=False, info=info)
        reading = engine.execution_options(**{_READS: True, "postgresql_readonly": True})
        self._reading = sessionmaker(reading, expire_on_commit=False, info=info)

    def of(self, project_id: str, key_id: str | None = None, quotas: Quotas = NO_QUOTAS) -> Sessions:
        """Transactions on the same database, and the same connections, about this project alone, for this key."""
        return Sessions(self.engine, project_id, key_id, quotas, self.objects)

    @contextmanager
    def begin(self) -> Iterator[Session]:
        """A transaction that is committed at the end of the block and rolled back if the block raises."""
        with self._writing.begin() as session:
            yield session

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A read-only transaction: one consistent moment on SQLite; PostgreSQL refuses to write in it."""
        with self._reading.begin() as session:
            yield session

    def dispose(self) -> None:
        """Close all pooled connections."""
        self.engine.dispose()


def open_sessions(database_url: str, objects: Objects | None = None) -> Sessions:
    """Sessions on the database at `database_url`, which `app.store.migrate.upgrade` has prepared.

    Args:
        objects: where new contents go and those beside the database lie, as `Settings.objects` says.
    """
    return Sessions(make_engine(database_url), objects=objects)


def project_of(session: Session) -> str:
    """The project that this transaction is about.

    Raises:
        LookupError: it is about none, and must not touch what belongs to one.
    """
    project: str | None = session.info.get(_PROJECT)
    if project is None:
        raise LookupError("this transaction is about no project; take it from Sessions.of(project_id)")
    return project


def key_of(session: Session) -> str | None:
    """The key for which this transaction is, None without one."""
    key: str | None = session.info.get(_KEY)
    return key


def quotas_of(session: Session) -> Quotas:
    """What the project of this transaction may take."""
    quotas: Quotas = session.info[_QUOTAS]
    return quotas


def clock(session: Session) -> datetime:
    """The time of the database, UTC: leases compare times of several machines, so one clock decides.

    SQLite has no server; all of its processes share the machine and therefore its clock.
    """
    if session.get_bind().dialect.name == "sqlite":
        return datetime.now(UTC)
    now: datetime = session.execute(select(func.clock_timestamp(type_=DateTime(timezone=True)))).scalar_one()
    return now.astimezone(UTC)

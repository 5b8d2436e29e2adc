from __future__ import annotations

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.exc import OperationalError, ProgrammingError

from workers.patience import patiently


def _nothing() -> None:
    pass


def _away() -> None:
    """What a database that is away raises: a real one, on a port where nothing listens."""
    with create_engine("postgresql+psycopg://nobody@127.0.0.1:9/none").connect() as connection:
        connection.execute(text("SELECT 1"))


def test_an_operation_is_repeated_until_the_database_is_back():
    calls = []

    def operation() -> str:
        calls.append(1)
        if len(calls) < 3:
            _away()
        return "done"

    assert patiently(operation, _nothing) == "done"
    assert len(calls) == 3


def test_patience_ends():
    with pytest.raises(OperationalError):
        patiently(_away, _nothing, patience_seconds=0.5)


def test_a_wrong_statement_is_not_repeated():
    calls = []

    def operation() -> None:
        calls.append(1)
        raise ProgrammingError("SELECT", {}, Exception("no such table"))

    with pytest.raises(ProgrammingError):
        patiently(operation, _nothing)
    assert len(calls) == 1


def test_waiting_ends_when_the_job_has_to_stop():
    def stop() -> None:
        raise KeyError("stop")

    with pytest.raises(KeyError, match="stop"):
        patiently(_away, stop)

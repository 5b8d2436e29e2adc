"""Bringing a database to the schema of this version."""

from __future__ import annotations

from importlib.resources import as_file, files
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import Engine, text

from app.store.engine import make_engine
from app.store.private import private_file

_ADVISORY_LOCK = 0x62697462  # "bitb": any number that no other program on the same database uses


def upgrade(database_url: str) -> None:
    """Create the schema, or bring it up to date; does nothing when it is. Safe when several processes start at once.

    Makes the folder and the file of an SQLite database, for this user only.

    Raises:
        RuntimeError: a newer version of bitbudget has changed the database.
    """
    engine = make_engine(database_url)
    if engine.dialect.name == "sqlite" and engine.url.database not in (None, "", ":memory:"):
        private_file(Path(str(engine.url.database)))  # SQLite gives its other files the rights of this one
    try:
        _upgrade(engine)
    except CommandError as error:
        raise RuntimeError(
            f"the database cannot be brought to the schema of this version ({error}); it was probably written by a "
            "newer version of bitbudget: install that version, or point BITBUDGET_DATABASE_URL elsewhere"
        ) from error
    finally:
        engine.dispose()


def _upgrade(engine: Engine) -> None:
    with as_file(files("migrations")) as folder, engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            # Two processes that start together: the second waits and then finds nothing to do. On SQLite the
            # transaction itself is the lock.
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _ADVISORY_LOCK})
        config = Config()
        config.set_main_option("script_location", str(folder).replace("%", "%%"))
        config.attributes["connection"] = connection
        command.upgrade(config, "head")

from __future__ import annotations

import json
import threading
from importlib.resources import files
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import CheckConstraint, inspect, select, text

from app.store.engine import Sessions, make_engine
from app.store.migrate import upgrade
from app.store.tables import Base, JobUploadRow


def test_models_and_migrations_agree(sessions: Sessions) -> None:
    with sessions.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, Base.metadata) == []


def test_every_check_of_the_models_is_in_the_database(sessions: Sessions) -> None:
    # Alembic does not compare these.
    found = {
        check["name"]
        for table in Base.metadata.tables
        for check in inspect(sessions.engine).get_check_constraints(table)
    }
    meant = {
        str(constraint.name)
        for table in Base.metadata.tables.values()
        for constraint in table.constraints
        if isinstance(constraint, CheckConstraint)
    }
    assert found == meant
    assert "ck_jobs_lease" in meant


def test_chunks_are_stored_outside_and_uncompressed(sessions: Sessions) -> None:
    if sessions.engine.dialect.name != "postgresql":
        pytest.skip("storage of columns is a matter of PostgreSQL")
    with sessions.read() as session:
        storage = session.scalar(
            text("SELECT attstorage FROM pg_attribute WHERE attrelid = 'blob_chunks'::regclass AND attname = 'data'")
        )
    assert storage == "e"


def test_upgrade_twice_changes_nothing(database_url: str) -> None:
    upgrade(database_url)


def test_many_processes_may_upgrade_at_once(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'new' / 'bitbudget.db'}"
    errors: list[BaseException] = []

    def run() -> None:
        try:
            upgrade(url)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def test_a_database_of_a_newer_version_is_refused(sessions: Sessions, database_url: str) -> None:
    with sessions.begin() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(RuntimeError, match=r"9999.*newer version of bitbudget"):
        upgrade(database_url)


def test_other_databases_are_refused_with_what_to_set() -> None:
    with pytest.raises(ValueError, match=r"sqlite:/// or postgresql\+psycopg://, got mysql.*BITBUDGET_DATABASE_URL"):
        make_engine("mysql://somewhere/x")


def test_what_jobs_read_is_known_of_those_that_an_older_version_stored(sessions: Sessions, database_url: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(files("migrations")))
    with sessions.begin() as session:
        Base.metadata.drop_all(session.connection())
        session.execute(text("DROP TABLE alembic_version"))
        config.attributes["connection"] = session.connection()
        command.upgrade(config, "0002")
        requests = {
            "plan": ("m", "d", {"budget": {"metric_id": "g"}, "seed": 0}),
            "certificate": ("m", None, {"quantized_id": "q", "budget": {"metric_id": None}}),
            "of itself": ("m", None, {"quantized_id": "m", "budget": {}}),
        }
        insert = (
            "INSERT INTO jobs (id, model_id, dataset_id, request, state, cancel_requested, attempt, released,"
            " announce_at, announcements, progress, last_event, created_at) VALUES (:id, :model, :data, :request,"
            " 'queued', false, 0, 0, '2026-01-01 00:00:00', 0, 0, 0, '2026-01-01 00:00:00')"
        )
        for job_id, (model, data, request) in requests.items():
            row = {"id": job_id, "model": model, "data": data, "request": json.dumps(request)}
            session.execute(text(insert), row)
    upgrade(database_url)
    with sessions.read() as session:
        read = {(row.job_id, row.kind, row.upload_id) for row in session.scalars(select(JobUploadRow))}
    assert read == {
        ("plan", "model", "m"),
        ("plan", "dataset", "d"),
        ("plan", "model", "g"),
        ("certificate", "model", "m"),
        ("certificate", "model", "q"),
        ("of itself", "model", "m"),
    }

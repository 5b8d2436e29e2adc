"""docs/operations.md says what the code does: settings with their defaults, metrics, and SQL that runs."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from app.api.metrics import Metrics
from app.settings import PREFIX, Settings
from app.store.engine import Sessions
from app.store.tables import ArtifactRow, IdempotencyRow, JobEventRow, JobRow, StageResultRow, UploadRow, WorkerRow

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


@pytest.fixture
def operations(page: Callable[[str], Any]) -> Any:
    return page("operations")


def test_every_setting_is_described_with_its_default(operations: Any) -> None:
    told = {name.strip("`"): default.strip("`") for name, default, _ in operations.rows("Settings")}
    settings = Settings()
    expected = {}
    for name in Settings.model_fields:
        value = getattr(settings, name)
        expected[PREFIX + name.upper()] = f"{value:g}" if isinstance(value, float) else str(value)
    # What depends on the machine is told in words.
    expected |= {
        "BITBUDGET_HOME": "~/.bitbudget",
        "BITBUDGET_DATABASE_URL": "sqlite:///$BITBUDGET_HOME/bitbudget.db",
        "BITBUDGET_TMP_DIR": "$BITBUDGET_HOME/tmp",
        "BITBUDGET_ALLOWED_HOSTS": "by the address",
        "BITBUDGET_WEBHOOK_NETWORKS": "none",
        "BITBUDGET_WORKER_MEMORY_BYTES": "none",
        "BITBUDGET_METRICS_TOKEN": "none",
        **{name: "none" for name in expected if name.startswith("BITBUDGET_QUOTA_")},
        "BITBUDGET_WORKER_THREADS": "every core",
        "BITBUDGET_S3_ENDPOINT": "none",
    }
    assert told == expected
    assert settings.worker_memory_bytes is settings.worker_threads is None
    assert (settings.home, settings.tmp_dir) == (Path.home() / ".bitbudget", Path.home() / ".bitbudget" / "tmp")


def test_every_metric_is_listed(operations: Any, sessions: Sessions) -> None:
    told = {name.strip("`").removesuffix("_total") for name, _ in operations.rows("Health and metrics")}
    assert told == {family.name for family in Metrics(sessions).registry.collect()}


def _statements(operations: Any) -> list[str]:
    blocks = "\n".join(operations.blocks("sql"))
    return [statement for statement in re.sub(r"--.*", "", blocks).split(";") if statement.strip()]


def test_the_sql_runs_and_frees_what_it_says(operations: Any, sessions: Sessions) -> None:
    from app.store.blobs import write_bytes

    finished, queued = _job("a" * 32, "succeeded"), _job("b" * 32, "queued", parent_id="a" * 32)
    blobs = [write_bytes(sessions, bytes([number])) for number in range(4)]
    with sessions.begin() as session:
        session.add_all(
            [_upload("model", finished.model_id, blobs[0].id), _upload("model", queued.model_id, blobs[1].id)]
        )
        session.add(finished)
        session.flush()
        session.add(queued)
        session.flush()
        session.add(ArtifactRow(job_id=finished.id, kind="plan", blob_id=blobs[2].id, media_type="application/json"))
        session.add(JobEventRow(job_id=finished.id, seq=1, kind="state", data={}, created_at=LONG_AGO))
        session.add(StageResultRow(key="k", blob_id=blobs[3].id, created_at=LONG_AGO))
        session.add(
            IdempotencyRow(scope="jobs", key="k", fingerprint="f" * 64, job_id=finished.id, created_at=LONG_AGO)
        )
        session.add(WorkerRow(name="w", started_at=LONG_AGO, seen_at=LONG_AGO))
    statements = _statements(operations)
    assert len(statements) == 13
    with sessions.begin() as session:
        for statement in statements:
            session.execute(text(statement))
    with sessions.read() as session:
        assert [job.id for job in session.query(JobRow)] == [queued.id]
        assert [upload.id for upload in session.query(UploadRow)] == [queued.model_id]
        for table in (ArtifactRow, JobEventRow, StageResultRow, IdempotencyRow):
            assert session.query(table).count() == 0


def _job(job_id: str, state: str, parent_id: str | None = None) -> JobRow:
    over = state == "succeeded"
    return JobRow(
        id=job_id,
        parent_id=parent_id,
        model_id=job_id * 2,
        request={},
        state=state,
        outcome="met" if over else None,
        created_at=LONG_AGO,
        finished_at=LONG_AGO if over else None,
        cancel_requested=False,
        attempt=0,
        progress=0.0,
        last_event=0,
    )


def _upload(kind: str, upload_id: str, blob_id: int) -> UploadRow:
    return UploadRow(kind=kind, id=upload_id, name="n", size_bytes=1, blob_id=blob_id, created_at=LONG_AGO)

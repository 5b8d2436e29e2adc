"""A job whose model, data, results and cache lie beside the database."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import func, select

from app.store.engine import Sessions
from app.store.objects import Objects
from app.store.tables import BlobChunkRow, BlobRow
from workers.desk import Desk

HERE = Path(__file__).parent
VALUES = list(range(10))


def test_a_job_reads_and_stores_contents_in_a_folder(
    jobs, sessions: Sessions, settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{HERE}:{HERE.parent.parent}")
    root = tmp_path / "contents"
    beside = Sessions(sessions.engine, sessions.project_id, objects=Objects(f"file://{root}"))
    job_id = type(jobs)(beside, tmp_path).add(VALUES)
    desk = Desk(settings, beside, "here", "fake_pipeline", lambda: None, "a processor")
    try:
        assert desk.work() == 1
    finally:
        desk.close()
    assert jobs.row(job_id).state == "succeeded"
    assert jobs.artifact(job_id, "model") == b"\x00\x01" + b"142.5"
    with sessions.read() as session:
        assert session.scalars(select(func.count()).select_from(BlobChunkRow)).one() == 0
        locations = session.scalars(select(BlobRow.location)).all()
    assert len(locations) >= 4
    assert all(location is not None and location.startswith(f"file://{root}/") for location in locations)
    assert len([path for path in root.rglob("*") if path.is_file()]) == len(locations)

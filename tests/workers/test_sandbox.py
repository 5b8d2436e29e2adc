"""What the process that runs models can reach, with walls around it and without."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from app.settings import Settings
from app.store.engine import Sessions
from workers.desk import Desk
from workers.sandbox import walls

HERE = Path(__file__).parent


@pytest.fixture
def spied(
    database_url: str,
    jobs: object,
    sessions: Sessions,
    make_settings: Callable[..., Settings],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> Callable[[str], dict[str, object]]:
    """What a job could do, by the kind of walls."""
    monkeypatch.setenv("PYTHONPATH", f"{HERE}:{HERE.parent.parent}")
    monkeypatch.setenv("SECRET_TOKEN", "of the operator")
    monkeypatch.setenv("BITBUDGET_DATABASE_URL", database_url)
    outside = tmp_path / "outside"
    outside.write_text("of the operator")

    def spy(kind: str) -> dict[str, object]:
        settings = make_settings(database_url, sandbox=kind)
        desk = Desk(settings, sessions, "here", "spying_pipeline", lambda: None, "a processor")
        with socket.create_server(("127.0.0.1", 0)) as server:
            job_id = jobs.add([], outside=str(outside), port=server.getsockname()[1])
            desk.work()
            desk.close()
        written = outside.with_name("written")
        row = jobs.row(job_id)
        assert row.state == "succeeded", row.error_detail
        # Behind walls a folder of that name may be there, and be another one.
        return {**row.summary, "write": written.exists()}

    return spy


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_without_walls_no_setting_and_no_variable_reaches_the_process(spied):
    found = spied("none")
    assert (found["variables"], found["telemetry"]) == ([], "1")
    assert found["connect"], "this is what the walls are for"
    assert found["read"]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_behind_walls_there_is_no_network_and_one_folder(spied, make_settings, database_url):
    if shutil.which("bwrap") is None or not walls(make_settings(database_url, sandbox="auto"), HERE):
        pytest.skip("bubblewrap is not installed, or does not work here")
    found = spied("bubblewrap")
    assert (found["variables"], found["telemetry"]) == ([], "1")
    assert not any(found[action] for action in ("connect", "read", "write", "write to the programs"))
    assert found["write to its folder"]
    assert int(found["capabilities"], 16) == 0
    assert not found["terminal"]
    assert found["processes"] <= 2, "itself, and the one that bubblewrap leaves beside it"


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_walls_that_are_asked_for_and_cannot_be_had_are_an_error(make_settings, database_url, monkeypatch):
    monkeypatch.setattr("workers.sandbox._bubblewrap", lambda: None)
    with pytest.raises(RuntimeError, match="BITBUDGET_SANDBOX=bubblewrap, but bwrap is not installed"):
        walls(make_settings(database_url, sandbox="bubblewrap"), HERE)

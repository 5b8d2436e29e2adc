from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from pydantic import ValidationError

from app.settings import Settings, refuse_unknown_names


def test_everything_lies_under_home(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    assert settings.database_url == f"sqlite:///{tmp_path}/bitbudget.db"
    assert settings.tmp_dir == tmp_path / "tmp"
    assert settings.broker_folder == tmp_path / "broker"
    assert settings.lease == timedelta(seconds=30)


def test_a_relative_home_becomes_absolute_because_children_run_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert Settings(home=Path("here")).tmp_dir == tmp_path / "here" / "tmp"


def test_the_environment_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BITBUDGET_HOME", str(tmp_path))
    monkeypatch.setenv("BITBUDGET_WORKER_THREADS", "3")
    monkeypatch.setenv("BITBUDGET_WORKER_MEMORY_BYTES", "")  # as docker compose passes what is not set
    settings = Settings()
    assert (settings.home, settings.worker_threads, settings.worker_memory_bytes) == (tmp_path, 3, None)


def test_a_child_process_gets_the_same_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(home=tmp_path, lease_seconds=2, heartbeat_seconds=0.5, worker_threads=1)
    for name, value in settings.environment().items():
        monkeypatch.setenv(name, value)
    assert Settings() == settings


def test_a_misspelt_name_is_refused_with_the_one_that_was_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BITBUDGET_MAX_UPLOD_BYTES", "5")
    with pytest.raises(
        ValidationError, match=r"BITBUDGET_MAX_UPLOD_BYTES \(did you mean BITBUDGET_MAX_UPLOAD_BYTES\?\)"
    ):
        Settings()


def test_names_of_tests_and_of_others_are_none_of_our_business() -> None:
    refuse_unknown_names({"BITBUDGET_TEST_REDIS_URL": "x", "HOME": "y"}, Settings.model_fields)


def test_the_variable_of_the_commands_is_no_misspelt_setting(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("BITBUDGET_SERVER", "http://example.com:8000")
    assert Settings(home=tmp_path).port == 8000


@pytest.mark.parametrize("hosts", ["http://example.com", "example.com:8000", "a,,b", "", "fd00::5", "a b"])
def test_allowed_hosts_are_names_without_more(tmp_path: Path, hosts: str) -> None:
    with pytest.raises(ValidationError, match=r"without a port, with commas between them, or \*, got"):
        Settings(home=tmp_path, allowed_hosts=hosts)


def test_a_heartbeat_that_can_miss_its_lease_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match=r"at most half of lease_seconds \(3\), got 2"):
        Settings(home=tmp_path, lease_seconds=3, heartbeat_seconds=2)


def test_settings_do_not_change(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Settings(home=tmp_path).port = 1  # type: ignore[misc]

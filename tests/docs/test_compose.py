"""docker-compose.yml and Dockerfile agree with the settings, the commands and the times of the code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from app.cli import app as command_line
from app.settings import PREFIX, Settings
from workers.presence import STOP_SECONDS

ROOT = Path(__file__).parents[2]
OWN_SERVICES = ("migrate", "api", "worker", "dispatcher")
OF_THE_CONTAINER = {"home", "tmp_dir", "host", "port"}


@pytest.fixture
def services() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]


def test_every_setting_that_is_not_the_containers_own_is_passed_on(services: dict[str, Any]) -> None:
    expected = {PREFIX + name.upper() for name in Settings.model_fields if name not in OF_THE_CONTAINER}
    for name in OWN_SERVICES:
        environment = services[name]["environment"]
        assert set(environment) == expected
        passed = {key: value for key, value in environment.items() if not key.endswith("_URL")}
        # Its port is published on this machine only, so that the API may listen on an address of its container.
        defaults = {"BITBUDGET_ALLOW_OPEN": "true"}
        assert passed == {key: f"${{{key}:-{defaults.get(key, '')}}}" for key in passed}


def test_the_api_is_reached_from_this_machine_only(services: dict[str, Any]) -> None:
    assert services["api"]["ports"] == ["127.0.0.1:${BITBUDGET_PORT:-8000}:8000"]


def test_what_is_not_set_outside_is_the_default_inside(
    services: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in services["worker"]["environment"]:
        monkeypatch.setenv(name, "")
    empty = Settings(home=tmp_path)
    for name in services["worker"]["environment"]:
        monkeypatch.delenv(name)
    assert empty == Settings(home=tmp_path)


def test_commands_and_health_checks_use_what_the_image_has(services: dict[str, Any]) -> None:
    commands = typer.main.get_command(command_line).commands  # type: ignore[attr-defined]
    lines = [services[name]["command"] for name in OWN_SERVICES]
    lines += [services[name]["healthcheck"]["test"][1:] for name in ("api", "worker", "dispatcher")]
    for program, *rest in lines:
        assert program in ("bitbudget", "python")
        if program == "bitbudget":
            known = {option for parameter in commands[rest[0]].params for option in parameter.opts}
            assert {word for word in rest if word.startswith("--")} <= known


def test_a_worker_is_given_the_time_that_it_takes_to_stop(services: dict[str, Any]) -> None:
    assert float(services["worker"]["stop_grace_period"].removesuffix("s")) >= STOP_SECONDS + 5

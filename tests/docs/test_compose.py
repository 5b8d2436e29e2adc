"""docker-compose.yml and Dockerfile agree with the settings, the commands and the times of the code."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from app.cli import app as command_line
from app.settings import GIB, PREFIX, Settings
from workers.presence import STOP_SECONDS

ROOT = Path(__file__).parents[2]
COMPOSE = (ROOT / "docker-compose.yml").read_text()
DOCKERFILE = (ROOT / "Dockerfile").read_text()
OWN_SERVICES = ("migrate", "api", "worker", "dispatcher")
OF_THE_CONTAINER = {"home", "tmp_dir", "host", "port"}


@pytest.fixture
def services() -> dict[str, Any]:
    return yaml.safe_load(COMPOSE)["services"]


def test_every_setting_that_is_not_the_containers_own_is_passed_on(services: dict[str, Any]) -> None:
    expected = {PREFIX + name.upper() for name in Settings.model_fields if name not in OF_THE_CONTAINER}
    for name in OWN_SERVICES:
        environment = services[name]["environment"]
        assert set(environment) == expected | {"ORT_DISABLE_TELEMETRY", "OTEL_EXPORTER_OTLP_ENDPOINT"}
        passed = {key: value for key, value in environment.items() if key in expected and not key.endswith("_URL")}
        # Its port is published on this machine only, so that the API may listen on an address of its container; and
        # its memory is limited, so that the process of a job must stay below that.
        defaults = {"BITBUDGET_ALLOW_OPEN": "true", "BITBUDGET_WORKER_MEMORY_BYTES": "6442450944"}
        assert passed == {key: f"${{{key}:-{defaults.get(key, '')}}}" for key in passed}


def test_the_api_is_reached_from_this_machine_only(services: dict[str, Any]) -> None:
    assert {name: service["ports"] for name, service in services.items() if "ports" in service} == {
        "api": ["127.0.0.1:${BITBUDGET_PORT:-8000}:8000"]
    }


def test_every_image_is_pinned_to_a_release(services: dict[str, Any]) -> None:
    images = [service["image"] for name, service in services.items() if name not in OWN_SERVICES]
    images += re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)
    assert len(images) == 4
    for image in images:
        assert re.fullmatch(r"postgres:15\.\d+|redis:7\.\d+\.\d+|python:3\.11\.\d+-slim-\w+", image), image


def test_no_service_may_more_than_it_needs(services: dict[str, Any]) -> None:
    for name, service in services.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert "cap_add" not in service, name
        assert "privileged" not in service, name
        # An image that begins as root would need capabilities to become somebody else.
        assert "user" in service or name in OWN_SERVICES, name
    assert re.search(r"^USER bitbudget$", DOCKERFILE, re.MULTILINE)


def test_what_runs_models_reaches_database_and_broker_only(services: dict[str, Any]) -> None:
    networks = yaml.safe_load(COMPOSE)["networks"]
    assert networks["inside"] == {"internal": True}
    outside = {name for name, service in services.items() if service["networks"] != ["inside"]}
    assert outside == {"api", "dispatcher"}


def test_every_service_has_a_limit_of_memory_and_of_its_log(services: dict[str, Any]) -> None:
    for name, service in services.items():
        assert re.fullmatch(r"\$\{[A-Z]+_MEMORY:-\d+[gm]\}", service["mem_limit"]) or name == "migrate", name
        assert service["logging"]["options"] == {"max-size": "10m", "max-file": "5"}
    container = int(re.findall(r"(\d+)g", services["worker"]["mem_limit"])[0]) * GIB
    job = int(re.findall(r":-(\d+)", services["worker"]["environment"]["BITBUDGET_WORKER_MEMORY_BYTES"])[0])
    assert container - job >= GIB


def test_the_image_has_every_package_and_switches_telemetry_off(services: dict[str, Any]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = {name.rstrip("*") for name in project["tool"]["setuptools"]["packages"]["find"]["include"]}
    assert set(re.findall(r"^COPY (\w+) \1$", DOCKERFILE, re.MULTILINE)) == {*packages, "client"}
    assert "ORT_DISABLE_TELEMETRY=1" in DOCKERFILE
    assert "bubblewrap" in DOCKERFILE
    for name in OWN_SERVICES:
        assert services[name]["environment"]["ORT_DISABLE_TELEMETRY"] == "1"


def test_the_image_takes_torch_for_the_cpu_without_being_told() -> None:
    pins = re.findall(r"^torch==.*$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert len(pins) == 1
    assert re.search(r"^ARG TORCH_INDEX=https://\S+/cpu$", DOCKERFILE, re.MULTILINE)
    assert """--no-deps --index-url "${TORCH_INDEX}" \\\n    "$(grep '^torch==' constraints.txt)\"""" in DOCKERFILE


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

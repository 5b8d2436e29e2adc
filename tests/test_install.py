"""What each way to install the package brings is enough for what it is for, and every version has its hashes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCKS = ("requirements.lock", "requirements-dev.lock")

_PIN = re.compile(r"^([\w.-]+)(?:\[[\w,-]+\])?==([^\s;]+)(.*?)(?=^\S|\Z)", re.MULTILINE | re.DOTALL)


def _needed(requirements: list[str]) -> set[str]:
    """The distributions that these requirements bring, with all that they need themselves."""
    found: dict[str, set[str]] = {}
    open_ones = [Requirement(text) for text in requirements]
    while open_ones:
        requirement = open_ones.pop()
        name = canonicalize_name(requirement.name)
        extras = requirement.extras | {""}
        if not extras - found.get(name, set()):
            continue
        found.setdefault(name, set()).update(extras)
        for text in distribution(name).requires or ():
            inner = Requirement(text)
            if inner.marker is None or any(
                inner.marker.evaluate({**default_environment(), "extra": extra}) for extra in extras
            ):
                open_ones.append(inner)
    return set(found)


def _installed_with(extras: tuple[str, ...], folder: Path) -> dict[str, str]:
    """The environment of a Python that sees the product and what these extras bring, and no other package."""
    requirements = [text for text in PROJECT["dependencies"] if not text.startswith("bitbudget-client")]
    for extra in extras:
        requirements += PROJECT["optional-dependencies"][extra]
    for name in (*_needed(requirements), "bitbudget"):
        tops = {file.parts[0] for file in distribution(name).files or ()} - {"..", "__pycache__"}
        # of the product itself only what says its version: its code comes from here
        for top in (top for top in tops if name != "bitbudget" or top.endswith(".dist-info")):
            link = folder / top
            if not link.exists():
                link.symlink_to(Path(str(distribution(name).locate_file(top))).resolve())
    paths = [str(folder), str(ROOT), str(ROOT / "client")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "BITBUDGET_HOME": str(folder / "home")}


def _run(environment: dict[str, str], program: str) -> subprocess.CompletedProcess[str]:
    # -S: without the packages of this interpreter
    return subprocess.run(
        [sys.executable, "-S", "-c", program], capture_output=True, text=True, check=False, env=environment
    )


IMPORT_ALL = """
import importlib, pkgutil
for name in {packages!r}:
    package = importlib.import_module(name)
    for info in pkgutil.walk_packages(package.__path__, name + "."):
        if not info.name.endswith("__main__"):
            importlib.import_module(info.name)
"""


def test_the_base_is_enough_for_command_api_and_page(tmp_path: Path) -> None:
    environment = _installed_with((), tmp_path)
    assert not (tmp_path / "torch").exists()
    done = _run(environment, IMPORT_ALL.format(packages=["app"]))
    assert done.returncode == 0, done.stderr


def test_the_extra_worker_is_enough_for_jobs(tmp_path: Path) -> None:
    environment = _installed_with(("worker",), tmp_path)
    packages = ["workers", "pipeline", "network", "quantization", "sensitivity", "planner", "evaluation"]
    done = _run(environment, IMPORT_ALL.format(packages=packages))
    assert done.returncode == 0, done.stderr


def test_without_the_extra_worker_the_remedy_names_it(tmp_path: Path) -> None:
    environment = _installed_with((), tmp_path)
    library = _run(environment, "import pipeline; pipeline.plan")
    assert library.returncode == 1
    assert "pip install 'bitbudget[worker]'" in library.stderr
    serve = "import sys; sys.argv[1:] = ['serve', '--port', '0']; from app.cli import main; main()"
    command = _run(environment, serve)
    assert command.returncode == 1
    assert "pip install 'bitbudget[worker]'" in " ".join(command.stderr.split())


def _pins(name: str) -> dict[str, tuple[str, str]]:
    return {canonicalize_name(m[1]): (m[2], m[3]) for m in _PIN.finditer((ROOT / name).read_text())}


@pytest.mark.parametrize("lock", LOCKS)
def test_every_locked_version_has_its_hashes_and_is_the_tested_one(lock: str) -> None:
    tested = {name: version for name, (version, _) in _pins("constraints.txt").items()}
    locked = _pins(lock)
    assert {name for name, (_, rest) in locked.items() if "--hash=sha256:" not in rest} == set()
    elsewhere = {"win32", "darwin", "emscripten", "pypy", "3.11.3"}  # never on Linux with a supported Python
    different = {
        name: (version, tested.get(name))
        for name, (version, rest) in locked.items()
        if tested.get(name) != version and not any(word in rest.partition("--hash")[0] for word in elsewhere)
    }
    assert different == {}, "run `make lock` after a change of constraints.txt"


def test_the_locks_hold_what_the_project_asks_for() -> None:
    extras = PROJECT["optional-dependencies"]
    for lock, asked in (
        ("requirements.lock", ("worker", "samples", "otel")),
        ("requirements-dev.lock", tuple(extras)),
    ):
        texts = PROJECT["dependencies"] + [text for extra in asked for text in extras[extra]]
        names = {canonicalize_name(Requirement(text).name) for text in texts}
        # torch has no one hash, the others are this project's own
        assert names - {"torch", "bitbudget", "bitbudget-client"} <= set(_pins(lock)), f"{lock}: run `make lock`"

"""The commands as a user runs them, in processes of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

ROOT = Path(__file__).parents[2]
FAKES = ROOT / "tests" / "workers"


class Commands:
    """Runs `bitbudget` with a home of its own, and ends what is left running."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = folder / "home"
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("BITBUDGET_")}
        self.environment = inherited | {
            "BITBUDGET_HOME": str(self.home),
            "BITBUDGET_LEASE_SECONDS": "3600",  # longer than any test: whoever waits for a lease fails
            "BITBUDGET_HEARTBEAT_SECONDS": "0.2",
            "BITBUDGET_WORKER_THREADS": "1",
            # The last one is for what a pipeline of a test has to say to its test.
            "PYTHONPATH": f"{FAKES}:{ROOT}:{ROOT / 'client'}:{folder}",
            "BITBUDGET_SANDBOX": "none",  # fake pipelines write to the folder of their test
            "COLUMNS": "200",
        }
        self._stack = ExitStack()

    def run(self, *arguments: str, timeout: float = 240.0) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments),
            env=self.environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def command(self, *arguments: str) -> list[str]:
        return [str(Path(sys.executable).with_name("bitbudget")), *arguments]

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        # a shell that runs the tests in the background ignores interrupts, and whoever it starts inherits that
        signal.signal(signal.SIGINT, signal.default_int_handler)
        process = subprocess.Popen(self.command(*arguments), env=self.environment, cwd=self.folder)
        self._stack.callback(_end, process)
        return process

    def elsewhere(self, name: str) -> Commands:
        """The same commands in a folder and home of their own, embedded whatever these are."""
        folder = self.folder / name
        folder.mkdir()
        return Commands(folder)

    def close(self) -> None:
        self._stack.close()


def _end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(120)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise


@pytest.fixture
def commands(tmp_path: Path) -> Iterator[Commands]:
    commands = Commands(tmp_path)
    yield commands
    commands.close()


@pytest.fixture(scope="module")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server for tests that leave it as it was: each process of it takes a second of the machine to start."""
    commands = Commands(tmp_path_factory.mktemp("shared"))
    server = start_server(commands, 0)
    yield server
    server.http.close()
    commands.close()


class Server:
    """A running `bitbudget serve` on the fake pipeline that holds a job where its test wants it."""

    def __init__(self, commands: Commands, process: subprocess.Popen[bytes], url: str) -> None:
        self.commands = commands
        self.process = process
        self.url = url
        self.http = httpx.Client(base_url=url, timeout=120)

    def job(self, job_id: str) -> dict[str, Any]:
        return self.http.get(f"/v1/jobs/{job_id}").json()

    def submit(self, model: Path, *arguments: str) -> str:
        done = self.commands.run("submit", str(model), "--server", self.url, *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()


def start_server(commands: Commands, number: int, *arguments: str) -> Server:
    """`bitbudget serve` on a free port; returns when it listens."""
    port_file = commands.folder / f"port{number}"
    process = commands.start(
        "serve", "--port", "0", "--port-file", str(port_file), "--pipeline", "held_pipeline", *arguments
    )
    while not port_file.exists():
        if process.poll() is not None:
            pytest.fail(f"the server does not listen; exit status {process.poll()}")
        time.sleep(0.02)
    return Server(commands, process, f"http://127.0.0.1:{port_file.read_text()}")


@pytest.fixture
def serve(commands: Commands) -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def serve(*arguments: str) -> Server:
        servers.append(start_server(commands, len(servers), *arguments))
        return servers[-1]

    yield serve
    for server in servers:
        server.http.close()


class FakeModel:
    """An upload for the fake pipeline (tests/workers/fake_pipeline.py and held_pipeline.py)."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.trace_path = folder / "trace"

    def write(self, name: str = "model", **members: Any) -> Path:
        path = self._folder / f"{name}.onnx"
        path.write_text(json.dumps({"values": list(range(10)), "trace": str(self.trace_path), **members}))
        return path

    def pid_of(self, step: str) -> int | None:
        lines = self.trace_path.read_text().splitlines() if self.trace_path.exists() else []
        return next((int(line.split()[1]) for line in reversed(lines) if line.split()[0] == step), None)


@pytest.fixture
def fake_model(tmp_path: Path) -> FakeModel:
    return FakeModel(tmp_path)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "data.npz"
    path.write_bytes(b"data")
    return path


def _is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


@pytest.fixture
def descendants() -> Callable[[int], set[int]]:
    """Every process that `pid` started, directly or not."""

    def descendants(pid: int) -> set[int]:
        children = {}
        for path in Path("/proc").glob("[0-9]*/stat"):
            try:
                parent = int(path.read_text().rsplit(")", 1)[1].split()[1])
            except (FileNotFoundError, ProcessLookupError):
                continue
            children.setdefault(parent, set()).add(int(path.parent.name))
        found, new = set(), {pid}
        while new:
            new = set().union(*(children.get(one, set()) for one in new))
            found |= new
        return found

    return descendants


@pytest.fixture
def alive() -> Callable[[int], bool]:
    return _is_alive

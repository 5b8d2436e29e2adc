"""The team's setup for a benchmark: a PostgreSQL, a Redis, API, dispatcher and workers, all started by it and killable.

Whatever ends is started again at once, as compose or systemd would.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import httpx
import psutil
import psycopg

POSTGRESQL_ROLE = "postgres"
T = TypeVar("T")


class Part:
    """One process that is started again when it ends.

    Args:
        user: whose it is; None: of whoever runs the benchmark.
    """

    def __init__(
        self, name: str, command: Sequence[str], environment: Mapping[str, str], log: Path, user: str | None = None
    ) -> None:
        self.name = name
        self.starts = 0
        self._command, self._environment, self._log, self._user = list(command), dict(environment), log, user
        self._process: subprocess.Popen[bytes] | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def pid(self) -> int | None:
        """Of the process that runs now."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    def children(self) -> list[psutil.Process]:
        """What it has started, directly or not."""
        pid = self.pid
        try:
            return [] if pid is None else psutil.Process(pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def kill(self, number: int = signal.SIGKILL) -> bool:
        """End it without warning; False if it does not run."""
        pid = self.pid
        return pid is not None and kill(pid, number)

    def stop(self) -> None:
        """End it for good."""
        self._stopping.set()
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping.is_set():
            with self._log.open("ab") as log:
                self._process = subprocess.Popen(
                    self._command,
                    env=self._environment,
                    stdout=log,
                    stderr=log,
                    user=self._user,
                    start_new_session=True,
                )
            self.starts += 1
            self._process.wait()
            self._stopping.wait(0.2)


def kill(pid: int, number: int = signal.SIGKILL) -> bool:
    """Send the signal; False if there is no such process."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


class Team:
    """Everything that runs, by name; `api` is a client of the API."""

    def __init__(self, folder: Path, parts: dict[str, Part], database_url: str, url: str, settings: Mapping[str, str]):
        self.folder = folder
        self.parts = parts
        self.database_url = database_url
        self.url = url
        self.environment = dict(settings)

    @property
    def workers(self) -> list[Part]:
        return [part for name, part in self.parts.items() if name.startswith("worker")]

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def sql(self, statement: str) -> list[tuple[object, ...]]:
        """Rows that the statement gives, whatever is being restarted."""

        def ask() -> list[tuple[object, ...]]:
            with psycopg.connect(self.database_url, connect_timeout=2) as connection:
                return list(connection.execute(statement.encode()).fetchall())

        return patiently(ask)

    def command(self, *arguments: str) -> str:
        """What `bitbudget ARGUMENTS` prints with the settings of the team."""
        done = subprocess.run(
            [_program(), *arguments], env=self.environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            sys.exit(f"bitbudget {' '.join(arguments)}: {done.stderr}")
        return done.stdout


def patiently(ask: Callable[[], T], seconds: float = 120.0) -> T:
    """`ask()`, again while something that it needs is being started."""
    end = time.monotonic() + seconds
    while True:
        try:
            return ask()
        except (psycopg.OperationalError, httpx.TransportError):
            if time.monotonic() > end:
                raise
            time.sleep(0.1)


@contextmanager
def running_team(folder: Path, workers: int = 2, **settings: str) -> Iterator[Team]:
    """A team below `folder`, with these settings (names without prefix)."""
    folder.mkdir(parents=True)
    ports = free_ports(3)
    database_url = f"postgresql://{POSTGRESQL_ROLE}@127.0.0.1:{ports[0]}/postgres"
    parts = {
        "postgresql": own_postgresql(folder, ports[0]),
        "redis": Part("redis", _redis(ports[1]), os.environ, folder / "redis.log"),
    }
    environment = {name: value for name, value in os.environ.items() if not name.startswith("BITBUDGET_")}
    given = {
        "home": str(folder / "home"),
        "database_url": database_url.replace("postgresql://", "postgresql+psycopg://"),
        "broker_url": f"redis://127.0.0.1:{ports[1]}/0",
        "worker_threads": "1",
        **settings,
    }
    environment |= {f"BITBUDGET_{name.upper()}": value for name, value in given.items()}
    commands = {
        "api": ("serve", "--no-worker", "--port", str(ports[2])),
        "dispatcher": ("dispatcher",),
        **{f"worker{number}": ("worker",) for number in range(workers)},
    }
    for name, arguments in commands.items():
        parts[name] = Part(name, [_program(), *arguments], environment, folder / f"{name}.log")
    team = Team(folder, parts, database_url, f"http://127.0.0.1:{ports[2]}", environment)
    try:
        for name in ("postgresql", "redis"):
            parts[name].start()
        team.sql("SELECT 1")
        team.command("migrate")
        for name in commands:
            parts[name].start()
        _wait_until_ready(team, workers)
        yield team
    finally:
        for name in (*commands, "redis", "postgresql"):
            if parts[name].starts:
                parts[name].stop()


def _wait_until_ready(team: Team, workers: int) -> None:
    with httpx.Client(base_url=team.url) as api:
        while patiently(lambda: api.get("/healthz")).is_error:
            time.sleep(0.1)
    while len(team.sql("SELECT name FROM workers")) < workers:
        time.sleep(0.1)


def own_postgresql(folder: Path, port: int) -> Part:
    """A cluster of its own. PostgreSQL refuses to run as root: it then runs as the user that its package has made."""
    programs = Path(shutil.which("postgres") or max(Path("/usr/lib/postgresql").glob("*/bin/postgres"))).parent
    data = folder / "postgresql"
    data.mkdir()
    user = POSTGRESQL_ROLE if os.getuid() == 0 else None
    log = folder / "postgresql.log"
    if user is not None:
        entry = pwd.getpwnam(user)
        os.chown(data, entry.pw_uid, entry.pw_gid)
        for parent in (folder, *folder.parents):
            if not parent.stat().st_mode & 0o001:
                parent.chmod(parent.stat().st_mode | 0o011)
    made = [str(programs / "initdb"), "-D", str(data), "-U", POSTGRESQL_ROLE, "-A", "trust", "--no-sync"]
    subprocess.run(made, check=True, user=user, stdout=subprocess.DEVNULL, cwd="/")
    command = [str(programs / "postgres"), "-D", str(data), "-p", str(port), "-k", "", "-h", "127.0.0.1"]
    return Part("postgresql", command, {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}, log, user)


def _redis(port: int) -> list[str]:
    program = shutil.which("redis-server")
    if program is None:
        sys.exit("redis-server is not installed; the benchmark starts one of its own")
    return [program, "--port", str(port), "--save", "", "--appendonly", "no", "--bind", "127.0.0.1", "--dir", "/tmp"]


def _program() -> str:
    return str(Path(sys.executable).with_name("bitbudget"))


def free_ports(count: int) -> list[int]:
    servers = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [server.getsockname()[1] for server in servers]
    for server in servers:
        server.close()
    return ports

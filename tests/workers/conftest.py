"""Jobs on the fake pipeline: in this process, or in real workers with real brokers."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from app.lifecycle.messages import Wake, waker
from app.schemas.job_request import Budget, JobRequest
from app.settings import Settings
from app.store.blobs import read_bytes, write_bytes
from app.store.engine import Sessions
from app.store.jobs import events_after, find_artifact, find_job
from app.store.tables import JobRow, ProjectRow, UploadRow
from app.store.uploads import put_upload

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def fake_pipeline() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fake_pipeline", HERE / "fake_pipeline.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for the names of their fields' types
    spec.loader.exec_module(module)
    return module


class Jobs:
    """Makes jobs for the fake pipeline and looks at them."""

    def __init__(self, sessions: Sessions, folder: Path) -> None:
        self.sessions = sessions
        self._folder = folder

    def add(self, values: list[float] | None = None, *, factor: float = 0.5, data: str = "data", **model: Any) -> str:
        job_id = uuid.uuid4().hex
        values = list(range(10)) if values is None else values
        content = json.dumps({"values": values, "trace": str(self._folder / "trace"), **model}).encode()
        now = datetime.now(UTC)
        ids = {}
        for kind, upload in (("model", content), ("dataset", data.encode())):
            blob = write_bytes(self.sessions, upload)
            with self.sessions.begin() as session:
                put_upload(session, kind, blob, None, now)
            ids[kind] = blob.sha256
        request = JobRequest(model_id=ids["model"], dataset_id=ids["dataset"], budget=Budget(max_drop=factor))
        with self.sessions.begin() as session:
            session.add(
                JobRow(
                    id=job_id,
                    model_id=ids["model"],
                    dataset_id=ids["dataset"],
                    request=request.model_dump(mode="json"),
                    state="queued",
                    created_at=now,
                )
            )
        return job_id

    def row(self, job_id: str) -> JobRow:
        with self.sessions.read() as session:
            row = find_job(session, job_id)
            session.expunge(row)
            return row

    def change(self, job_id: str, **values: Any) -> None:
        with self.sessions.begin() as session:
            row = find_job(session, job_id)
            for name, value in values.items():
                setattr(row, name, value)

    def give_to(self, job_id: str, project_id: str) -> None:
        """Let the job and its uploads belong to a project of their own."""
        with self.sessions.begin() as session:
            session.add(ProjectRow(id=project_id, name=project_id, created_at=datetime.now(UTC)))
            job = session.get_one(JobRow, job_id)
            job.project_id = project_id
            for kind, upload_id in (("model", job.model_id), ("dataset", job.dataset_id)):
                upload = session.get_one(UploadRow, ("default", kind, upload_id))
                values = {
                    name: getattr(upload, name)
                    for name in ("kind", "id", "name", "size_bytes", "blob_id", "created_at")
                }
                session.add(UploadRow(project_id=project_id, **values))

    def artifact(self, job_id: str, kind: str) -> bytes:
        with self.sessions.read() as session:
            blob, _ = find_artifact(session, job_id, kind)
        return read_bytes(self.sessions, blob)

    def events(self, job_id: str) -> list[tuple[str, dict[str, Any]]]:
        with self.sessions.read() as session:
            return [(event.kind, event.data) for event in events_after(session, job_id, 0)]

    def wake(self) -> None:
        """End the sleep of a stage with the trouble `deaf`."""
        (self._folder / "trace.wake").touch()

    def trace(self) -> list[str]:
        """The steps that began, in order."""
        return [line.split()[0] for line in self._trace_lines()]

    def pid_of(self, step: str) -> int | None:
        """The process that began `step` last; None if none did."""
        return next((int(line.split()[1]) for line in reversed(self._trace_lines()) if line.split()[0] == step), None)

    def _trace_lines(self) -> list[str]:
        path = self._folder / "trace"
        return path.read_text().splitlines() if path.exists() else []

    @staticmethod
    def expected(values: list[float], factor: float = 0.5, data: str = "data") -> dict[str, Any]:
        """The summary of a finished job."""
        return {"total": factor * sum(v * v for v in values), "data": data}


@pytest.fixture
def jobs(sessions: Sessions, tmp_path: Path) -> Jobs:
    return Jobs(sessions, tmp_path)


@pytest.fixture
def make_settings(tmp_path: Path) -> Callable[..., Settings]:
    """Settings with short waits everywhere."""

    def make(database_url: str, **changes: Any) -> Settings:
        values = {
            "lease_seconds": 2.0,
            "heartbeat_seconds": 0.2,
            "dispatch_interval_seconds": 0.2,
            "worker_threads": 1,
            # The fake pipeline writes to the folder of its test.
            "sandbox": "none",
        }
        return Settings(home=tmp_path / "home", database_url=database_url, **{**values, **changes})

    return make


@pytest.fixture
def settings(database_url: str, make_settings: Callable[..., Settings]) -> Settings:
    return make_settings(database_url)


class Workers:
    """Real workers on a real broker, each a process group of its own."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._stack = ExitStack()
        self.wake: Wake = waker(settings)

    def start(self, *arguments: str, stdin: int | None = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("BITBUDGET_")}
        environment |= self.settings.environment()
        environment["PYTHONPATH"] = f"{HERE}:{HERE.parent.parent}"
        process = subprocess.Popen(
            [sys.executable, "-m", "workers", "--pipeline", "fake_pipeline", *arguments],
            env=environment,
            cwd=HERE,
            stdin=stdin,
            start_new_session=True,
        )
        self._stack.callback(_end_group, process)
        return process

    def close(self) -> None:
        self._stack.close()


def _end_group(process: subprocess.Popen[bytes]) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    finally:
        process.wait()
        if process.stdin is not None:
            process.stdin.close()


@pytest.fixture
def workers_on() -> Iterator[Callable[[Settings], Workers]]:
    """Workers with these settings, ended after the test."""
    with ExitStack() as stack:

        def on(settings: Settings) -> Workers:
            workers = Workers(settings)
            stack.callback(workers.close)
            return workers

        yield on


@pytest.fixture
def workers(settings: Settings, database_url: str, request: pytest.FixtureRequest) -> Iterator[Workers]:
    """Workers on SQLite with the broker of files, and on PostgreSQL with Redis."""
    if database_url.startswith("postgresql"):
        settings = settings.model_copy(update={"broker_url": request.getfixturevalue("redis_url")})
    started = Workers(settings)
    yield started
    started.close()


@pytest.fixture
def alive() -> Callable[[int], bool]:
    def alive(pid: int) -> bool:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return False
        return state != "Z"

    return alive

"""A real server on a real database: the application under uvicorn, and a client that talks to it over a socket."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from app.access.keys import create_key
from app.access.projects import ensure_project
from app.access.roles import Role
from app.http.server import listen, make_server
from app.main import create_app
from app.schemas.job_request import JobRequest
from app.services import jobs
from app.settings import Settings
from app.store.blobs import write_bytes
from app.store.engine import Sessions, clock
from app.store.tables import JobRow
from app.store.uploads import put_upload

NewJob = Callable[[], JobRow]


@dataclass
class RunningServer:
    """What a test needs of a running server; `wakes` counts the messages that would have woken a worker up."""

    settings: Settings
    port: int
    sessions: Sessions
    client: httpx.Client
    wakes: list[None] = field(default_factory=list)

    def as_key(self, project: str, role: str = "admin") -> httpx.Client:
        """A client with a new key to this project; whoever asked for it closes it."""
        key = make_key(self.sessions, project, role)
        return httpx.Client(base_url=f"http://127.0.0.1:{self.port}", headers={"Authorization": f"Bearer {key}"})

    def upload_model(self, data: bytes = b"model", **query: Any) -> str:
        answer = self.client.put("/v1/models", content=data, params=query)
        assert answer.status_code in (200, 201), answer.text
        return str(answer.json()["id"])

    def submit(self, **members: Any) -> dict[str, Any]:
        members.setdefault("model_id", self.upload_model())
        answer = self.client.post("/v1/jobs", json=members)
        assert answer.status_code == 202, answer.text
        job: dict[str, Any] = answer.json()
        return job


def make_key(sessions: Sessions, project: str, role: str = "admin") -> str:
    """A new key to a project, which is made if there is none."""
    return create_key(sessions.of(ensure_project(sessions, project).id), Role(role))[1]


@pytest.fixture
def new_job(sessions: Sessions) -> NewJob:
    """Makes jobs about one model."""
    model = write_bytes(sessions, b"model")
    with sessions.begin() as session:
        put_upload(session, "model", model, None, clock(session))

    def make() -> JobRow:
        request = JobRequest(model_id=model.sha256)
        return jobs.submit(sessions, lambda: None, request)

    return make


@pytest.fixture
def settings(tmp_path: Path, database_url: str) -> Settings:
    return Settings(
        home=tmp_path / "home",
        database_url=database_url,
        max_model_bytes=3_000_000,
        max_dataset_bytes=2_000_000,
        max_upload_bytes=4_000_000,
    )


@pytest.fixture
def serve(
    settings: Settings, sessions: Sessions, wait_until: Callable[..., None]
) -> Iterator[Callable[..., RunningServer]]:
    """`serve(settings)`: start a server; it is stopped after the test."""
    started: list[tuple[uvicorn.Server, threading.Thread, httpx.Client]] = []

    def start(given: Settings = settings, wake: Callable[[], None] | None = None) -> RunningServer:
        wakes: list[None] = []
        server = make_server(create_app(given, wake=wake or partial(wakes.append, None)), given)
        server.config.timeout_graceful_shutdown = 2
        listener = listen("127.0.0.1", 0)
        port = listener.getsockname()[1]
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        wait_until(lambda: server.started)
        client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120)
        started.append((server, thread, client))
        return RunningServer(given, port, sessions, client, wakes)

    yield start
    for server, thread, client in started:
        client.close()
        server.should_exit = True
        thread.join()


@pytest.fixture
def server(serve: Callable[..., RunningServer]) -> RunningServer:
    return serve()

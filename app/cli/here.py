"""One job through the whole service, run by this process: its API on a private socket, its worker as a child."""

from __future__ import annotations

import shutil
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import httpx

from app.cli.extras import require_worker
from app.cli.output import PROGRESS
from app.cli.progress import follow
from app.embedded import Embedded
from app.http.server import make_server
from app.logs import configure_logging
from app.main import create_app
from app.settings import Settings
from app.store.migrate import upgrade
from app.store.private import private_file
from bitbudget_client import Client, Job

LOOK_SECONDS = 0.2

Collected = TypeVar("Collected")


def run_here(
    make: Callable[[Client, str], Job], collect: Callable[[Client, str], Collected], pipeline: str | None
) -> tuple[Job, Collected | None]:
    """How the job ended that `make` makes, and what `collect` took of its results; None where there are none.

    Args:
        make: gets the Idempotency-Key of the job, by which it ends with this process.
        pipeline: of a test.
    """
    require_worker()
    settings = _settings()
    log = settings.home / "worker.log"
    private_file(log)
    arguments = () if pipeline is None else ("--pipeline", pipeline)
    with (
        Embedded(settings, worker_arguments=arguments, worker_log=log) as embedded,
        private_server(settings) as client,
        _said_when_interrupted(),
        embedded.command_job() as command,
    ):
        if not embedded.start():
            PROGRESS.print(f"the worker of {embedded.lock_holder()} takes the job", highlight=False)
        job_id = make(client, command.key).id
        with _starting_when_others_end(embedded):
            job = follow(client, job_id)
        return job, collect(client, job_id) if job.succeeded else None


@contextmanager
def jobs_here() -> Iterator[Client]:
    """What the home of this machine holds, without anything that works on it."""
    with private_server(_settings()) as client:
        yield client


def _settings() -> Settings:
    # The bar shows how the job goes; what remains is worth a line only when something is wrong.
    configure_logging(level="error", form="text")
    settings = Settings()
    upgrade(settings.database_url)
    return settings


@contextmanager
def _starting_when_others_end(embedded: Embedded) -> Iterator[None]:
    """Another process may run the worker of this home, and end before the job has."""
    over = threading.Event()

    def look() -> None:
        while not embedded.start() and not over.wait(LOOK_SECONDS):
            pass

    looking = threading.Thread(target=look, name="takeover", daemon=True)
    looking.start()
    try:
        yield
    finally:
        over.set()
        looking.join()


@contextmanager
def _said_when_interrupted() -> Iterator[None]:
    try:
        yield
    except SystemExit:
        with suppress(OSError):  # the terminal may be what is gone
            PROGRESS.print("interrupted: the job is cancelled; what it has analysed is kept for the same command again")
        raise


@contextmanager
def private_server(settings: Settings) -> Iterator[Client]:
    """The API on a Unix socket that only this user can reach, for as long as the block runs; yields its client."""
    # Not in the home: the name of a Unix socket has at most 107 characters.
    folder = Path(tempfile.mkdtemp(prefix="bitbudget-"))
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(folder / "api"))
    listener.listen()
    # Whoever reaches the socket reads the database too: a key would keep nobody out.
    without_keys = settings.model_copy(update={"auth": "none"})
    server = make_server(create_app(without_keys), settings)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="http", daemon=True)
    thread.start()
    transport = httpx.HTTPTransport(uds=str(folder / "api"))
    try:
        # nothing cuts this connection: an upload goes in one piece
        with Client("http://localhost", transport=transport, pieces_from_bytes=2**62) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join()
        shutil.rmtree(folder)

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

from app.cli.client import Client, Job
from app.cli.extras import require_worker
from app.cli.output import ERRORS
from app.cli.progress import job_progress
from app.embedded import Embedded
from app.http.server import make_server
from app.logs import configure_logging
from app.main import create_app
from app.settings import Settings
from app.store.migrate import upgrade
from app.store.private import private_file

POLL_SECONDS = 0.2

Collected = TypeVar("Collected")


def run_here(
    make: Callable[[Client, str], Job], collect: Callable[[Client, str], Collected], pipeline: str | None
) -> tuple[Job, Collected | None]:
    """How the job ended that `make` makes, and what `collect` took of its results; None where there are none.

    Args:
        make: gets the Idempotency-Key of the job, by which it ends with this process.
        pipeline: of a test.
    """
    # The bar shows how the job goes; what remains is worth a line only when something is wrong.
    configure_logging(level="error", form="text")
    require_worker()
    settings = Settings()
    upgrade(settings.database_url)
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
            ERRORS.print(f"the worker of {embedded.lock_holder()} takes the job", highlight=False)
        job_id = str(make(client, command.key)["id"])
        job = _follow(client, embedded, job_id)
        return job, collect(client, job_id) if job["state"] == "succeeded" else None


def _follow(client: Client, embedded: Embedded, job_id: str) -> Job:
    with job_progress() as progress:

        def show(job: Job) -> None:
            progress(job)
            # Another process ran the worker of this home when the job was made; it may have gone since.
            embedded.start()

        return client.follow(job_id, show, POLL_SECONDS)


@contextmanager
def _said_when_interrupted() -> Iterator[None]:
    try:
        yield
    except SystemExit:
        with suppress(OSError):  # the terminal may be what is gone
            ERRORS.print("interrupted: the job is cancelled; what it has analysed is kept for the same command again")
        raise


@contextmanager
def private_server(settings: Settings) -> Iterator[Client]:
    """The API on a Unix socket that only this user can reach, for as long as the block runs; yields its client."""
    # Not in the home: the name of a Unix socket has at most 107 characters.
    folder = Path(tempfile.mkdtemp(prefix="bitbudget-"))
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(folder / "api"))
    # Whoever reaches the socket reads the database too: a key would keep nobody out.
    without_keys = settings.model_copy(update={"auth": "none"})
    server = make_server(create_app(without_keys), settings)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="http", daemon=True)
    thread.start()
    try:
        with Client("http://localhost", socket=folder / "api") as client:
            yield client
    finally:
        server.should_exit = True
        thread.join()
        shutil.rmtree(folder)

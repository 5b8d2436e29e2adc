"""`bitbudget serve`, `worker`, `dispatcher`, `migrate` and `health`: the processes of the service.

What they do is in `processes`, which loads the service: other commands need not wait for that.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, NoReturn

import typer

Pipeline = Annotated[str | None, typer.Option(hidden=True)]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (serve, worker, dispatcher, migrate, health):
        app.command()(command)


def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on.", show_default="127.0.0.1")] = None,
    port: Annotated[
        int | None, typer.Option(help="Port; 0 takes a free one.", show_default="8000", min=0, max=65535)
    ] = None,
    no_worker: Annotated[
        bool, typer.Option("--no-worker", help="Only the API; workers and the dispatcher run elsewhere.")
    ] = False,
    port_file: Annotated[
        Path | None, typer.Option(help="Write the port to this file once the server listens.", dir_okay=False)
    ] = None,
    pipeline: Pipeline = None,
) -> None:
    """Serve the API together with one worker; nothing else needs to be installed or started."""
    from app.cli import processes

    processes.serve(host, port, no_worker, port_file, pipeline)


def worker(pipeline: Pipeline = None) -> NoReturn:
    """Work on jobs, until told to stop; the running job is then given back."""
    from app.cli import processes

    processes.work(pipeline)


def dispatcher() -> None:
    """Announce waiting jobs again and take jobs back from silent workers; one per installation, more do no harm."""
    from app.cli import processes

    processes.dispatch()


def migrate() -> None:
    """Create the tables, or bring them to this version."""
    from app.cli import processes

    processes.migrate()


def health(
    worker: Annotated[
        bool, typer.Option("--worker", help="Also ask for a worker of this host that was seen within the last minute.")
    ] = False,
) -> None:
    """For health checks of containers: exit status 0 if the database answers, else 1 and the reason."""
    from app.cli import processes

    processes.check_health(worker)

"""What `bitbudget serve`, `worker`, `dispatcher`, `migrate` and `health` do. Loads the service."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn

from sqlalchemy.exc import SQLAlchemyError

from app.api.guard import is_loopback
from app.cli.extras import require_worker
from app.cli.output import CONSOLE, Refused
from app.dispatcher import Dispatcher
from app.embedded import Embedded, HomeLock, needs_lock
from app.http.server import listen, make_server
from app.lifecycle.messages import waker
from app.logs import configure_logging
from app.main import create_app
from app.services.health import WORKER_SEEN_WITHIN, workers_here
from app.settings import Settings
from app.store.engine import open_sessions
from app.store.migrate import upgrade
from app.supervisor import worker_command, worker_environment
from app.tracing import configure_tracing

logger = logging.getLogger(__name__)


def serve(host: str | None, port: int | None, no_worker: bool, port_file: Path | None, pipeline: str | None) -> None:
    """The API, and unless `no_worker` says otherwise a worker and the dispatcher; until told to stop."""
    configure_logging()
    configure_tracing("api")
    settings = Settings()
    settings = settings.model_copy(
        update={"host": settings.host if host is None else host, "port": settings.port if port is None else port}
    )
    _refuse_open(settings)
    if settings.database_url.startswith("sqlite"):
        upgrade(settings.database_url)
    with bind(settings.host, settings.port) as listener, _terminate_as_exit():
        if no_worker:
            _serve(settings, listener, port_file)
            return
        require_worker()
        arguments = () if pipeline is None else ("--pipeline", pipeline)
        with Embedded(settings, worker_arguments=arguments) as embedded:
            if not embedded.start():
                raise Refused(
                    f"{embedded.lock_holder()} already runs the worker of {settings.home}: use that server, or serve "
                    "beside it with --no-worker, or set BITBUDGET_HOME to another folder"
                )
            _serve(settings, listener, port_file)


def work(pipeline: str | None) -> NoReturn:
    """A worker, in place of this process."""
    require_worker()
    settings = Settings()
    lock = HomeLock(settings.home)
    if needs_lock(settings) and not lock.acquire():
        raise Refused(
            f"{lock.holder()} already runs the worker of {settings.home}, and the broker of files takes one; for more, "
            "set BITBUDGET_BROKER_URL=redis://... and BITBUDGET_DATABASE_URL=postgresql+psycopg://..."
        )
    lock.keep_across_exec()
    command = worker_command(() if pipeline is None else ("--pipeline", pipeline))
    # The worker replaces this process: signals reach it, and nothing waits beside it.
    os.execve(sys.executable, command, worker_environment(settings))  # noqa: S606 - our own command line


def dispatch() -> None:
    """The dispatcher, until told to stop."""
    configure_logging()
    settings = Settings()
    sessions = open_sessions(settings.database_url, settings.objects())
    loop = Dispatcher(settings, sessions, waker(settings))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: loop.stop())
    logger.info("dispatching every %g s", settings.dispatch_interval_seconds)
    loop.run()
    sessions.dispose()


def migrate() -> None:
    """The schema of this version."""
    settings = Settings()
    upgrade(settings.database_url)
    CONSOLE.print("the database has the schema of this version")


def check_health(worker: bool) -> None:
    """Whether the database answers, and where `worker` asks for it a worker of this host.

    Raises:
        Refused: says what does not.
    """
    sessions = open_sessions(Settings().database_url)
    try:
        here = workers_here(sessions)
    except SQLAlchemyError as error:
        raise Refused(f"the database does not answer, or lacks the schema of this version: {error}") from error
    finally:
        sessions.dispose()
    if worker and here == 0:
        raise Refused(
            f"no worker of the host {socket.gethostname()} was seen within {WORKER_SEEN_WITHIN.total_seconds():g} s; "
            "its log says why"
        )
    CONSOLE.print("healthy")


def _refuse_open(settings: Settings) -> None:
    if settings.auth == "none" and not settings.allow_open and not is_loopback(settings.host):
        raise Refused(
            f"whoever reaches {settings.host} could do everything, because this service asks for no keys. Set "
            "BITBUDGET_AUTH=keys and make keys with `bitbudget keys create`, or listen on 127.0.0.1; where something "
            "else keeps strangers away, set BITBUDGET_ALLOW_OPEN=true"
        )


def bind(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one.

    Raises:
        Refused: the address is in use or not of this machine.
    """
    try:
        return listen(host, port)
    except OSError as error:
        raise Refused(
            f"cannot listen on {host}:{port}: {error.strerror}; take another one with --host and --port"
        ) from (error)


def _serve(settings: Settings, listener: socket.socket, port_file: Path | None) -> None:
    host, port = listener.getsockname()[:2]
    server = make_server(create_app(settings), settings)
    if port_file is not None:
        _write_whole(port_file, str(port))
    shown = f"[{host}]" if ":" in host else host
    CONSOLE.print(f"bitbudget listens on http://{shown}:{port} (Ctrl-C stops it)", highlight=False, soft_wrap=True)
    server.run(sockets=[listener])


def _write_whole(path: Path, text: str) -> None:
    """Write a file that others wait for: never seen half written."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(text)
    partial.replace(path)


@contextmanager
def _terminate_as_exit() -> Iterator[None]:
    """Let SIGTERM and Ctrl-C leave the block as an exit with status 0, so that everything is stopped on the way out.

    uvicorn handles both while it serves, and raises them again afterwards for the handlers that were set.
    """

    def leave(_number: int, _frame: FrameType | None) -> None:
        raise SystemExit(0)

    before = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

"""Serving the API from a command: a socket that is bound before anything starts, and the server in this process."""

from __future__ import annotations

import shutil
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from app.cli.client import Client
from app.cli.output import Refused
from app.http.server import listen, make_server
from app.main import create_app
from app.settings import Settings


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

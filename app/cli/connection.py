"""The server that a command talks to: one that is named, or what this machine's home holds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated

import typer

from app.cli.config import ConfigFile, read_config
from bitbudget_client import Client

DEFAULT_SERVER = "http://127.0.0.1:8000"

Server = Annotated[
    str | None, typer.Option(envvar="BITBUDGET_SERVER", help="Address of the server.", show_default=DEFAULT_SERVER)
]
Key = Annotated[
    str | None, typer.Option(envvar="BITBUDGET_KEY", help="The key that the server asks for.", show_default="none")
]
Here = Annotated[
    bool, typer.Option("--here", help="Look into this machine's BITBUDGET_HOME, where `plan` keeps its jobs.")
]


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """Options of a command that asks a server."""

    server: Server = None
    key: Key = None
    config: ConfigFile = None

    @contextmanager
    def client(self) -> Iterator[Client]:
        """A client of the server; options come before the environment, and that before the file.

        Raises:
            WrongUsage: the file cannot be read.
        """
        config = read_config(self.config)
        with Client(self.server or config.server or DEFAULT_SERVER, self.key or config.key) as client:
            yield client


@dataclass(frozen=True, slots=True)
class JobsOptions(ServerOptions):
    """Options of a command that looks at jobs, which may be those of this machine."""

    here: Here = False

    @contextmanager
    def client(self) -> Iterator[Client]:
        """As that of a server; with `--here` one of a server within this process."""
        if not self.here:
            with ServerOptions.client(self) as client:
                yield client
            return
        from app.cli.here import jobs_here  # loads the service, which takes longer than most commands

        with jobs_here() as client:
            yield client

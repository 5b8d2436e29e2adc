"""The server of the API: sockets, limits, and the headers of every answer."""

from __future__ import annotations

import logging
import resource
import socket
from functools import partial

import uvicorn
from fastapi import FastAPI

from app.http.connections import ConnectionLimit, ConnectionTable
from app.http.protocol import Guard, GuardedProtocol
from app.http.quiet import limit_repetitions
from app.http.waiting import KEEP_ALIVE_SECONDS, Patience
from app.settings import Settings

logger = logging.getLogger(__name__)

SHUTDOWN_SECONDS = 5
"""How long open answers (downloads, event streams) may go on after the server was asked to stop."""
MOST_FILES = 65_536
"""No higher is the limit of open files raised: some programs visit every number below it when they start."""
RESERVED_FILES = 256
"""Open files that no connection holds: the pool of the database, logs, modules."""
FILES_PER_CONNECTION = 2
"""Its socket, and the file that an upload goes to."""

QUEUED_CONNECTIONS = 2048
ACCEPTED_AT_A_TIME = 16

HEADERS = (
    ("X-Content-Type-Options", "nosniff"),  # what was uploaded is never guessed to be a page
    ("Content-Security-Policy", "frame-ancestors 'none'"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Referrer-Policy", "no-referrer"),  # addresses hold ids
)
"""On every answer, also on those that the protocol gives by itself."""


class Server(uvicorn.Server):
    """uvicorn's, which takes few connections at a time from a long queue.

    asyncio uses one number for both: how many connections wait in the kernel, and how many of them are accepted before
    anything is read of the first. So in a crowd a connection could have to make room before its request was looked at.
    """

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listener in sockets or ():
            listener.listen(QUEUED_CONNECTIONS)


def make_server(app: FastAPI, settings: Settings) -> uvicorn.Server:
    """A server of `app` that logs as the process does. Raises the process's limit of open files."""
    limit_repetitions()
    guard = Guard(Patience.of(settings), ConnectionTable(connection_limit(settings, raised_file_limit())))
    config = uvicorn.Config(
        app,
        http=partial(GuardedProtocol, guard=guard),  # type: ignore[arg-type] # it is called, and never looked into
        ws="none",
        log_config=None,
        # One line for each poll of each client would bury the jobs' own lines; /metrics counts requests.
        access_log=False,
        lifespan="on",
        server_header=False,
        headers=list(HEADERS),
        backlog=ACCEPTED_AT_A_TIME,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
    )
    return Server(config)


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one.

    Raises:
        OSError: the address is in use or not of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # The protocol is named, because asyncio sets TCP_NODELAY only where it is: without it the second part of each
    # answer waits for the client to acknowledge the first, 40 ms.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind((host, port))
        listener.listen(QUEUED_CONNECTIONS)
    except OSError:
        listener.close()
        raise
    return listener


def raised_file_limit() -> int:
    """Raise the limit of open files as far as it may be raised; returns it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        return wanted
    return MOST_FILES if soft == resource.RLIM_INFINITY else soft


def connection_limit(settings: Settings, files: int) -> ConnectionLimit:
    """What the settings ask for, as far as `files` open files allow it."""
    possible = max(1, (files - RESERVED_FILES) // FILES_PER_CONNECTION)
    if possible < settings.max_connections:
        logger.warning(
            "at most %d connections at a time, not %d: the process may open %d files. Raise that limit (ulimit -n), or "
            "lower BITBUDGET_MAX_CONNECTIONS",
            possible,
            settings.max_connections,
            files,
        )
    return ConnectionLimit(min(possible, settings.max_connections), settings.max_connections_per_address)

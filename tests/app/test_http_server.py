"""A real server, and clients that say half of what they should: they are let go, and nobody else is kept waiting.

No test measures time. Time-outs are short where a test waits for one, and longer than any test where none may come.
"""

from __future__ import annotations

import asyncio
import json
import resource
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI
from starlette.responses import Response, StreamingResponse

from app.cli.here import private_server
from app.http.server import (
    ACCEPTED_AT_A_TIME,
    HEADERS,
    RESERVED_FILES,
    connection_limit,
    listen,
    make_server,
    raised_file_limit,
)
from app.settings import Settings

HOST = b"Host: localhost\r\n"
HALF_A_BODY = b"PUT /v1/models HTTP/1.1\r\n" + HOST + b"Content-Length: 1000000\r\n\r\nx"
HALF_A_HEAD = b"GET /healthz HTTP/1.1\r\nHo"
HEALTHZ = b"GET /healthz HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n"
NEVER = {"header_seconds": 3600.0, "stall_seconds": 3600.0}


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    """One kind of database is enough: nothing here comes so far."""
    from app.store.migrate import upgrade

    url = f"sqlite:///{tmp_path / 'bitbudget.db'}"
    upgrade(url)
    return url


@pytest.fixture
def connect() -> Iterator[Callable[..., socket.socket]]:
    """`connect(server, data)`: a connection on which `data` was sent."""
    with ExitStack() as stack:

        def connected(server: Any, data: bytes) -> socket.socket:
            client = stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=60))
            client.sendall(data)
            return client

        yield connected


def everything(client: socket.socket) -> bytes:
    """What comes until the server closes."""
    parts = []
    while part := client.recv(65536):
        parts.append(part)
    return b"".join(parts)


def closed(client: socket.socket) -> bool:
    """Whether the server has closed it, as far as can be seen now."""
    client.setblocking(False)
    try:
        while client.recv(65536):
            pass
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True
    return True


def problem_of(answer: bytes) -> dict[str, Any]:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"content-type: application/problem+json" in head.lower()
    for name, value in HEADERS:
        assert f"{name}: {value}".lower().encode() in head.lower()
    assert b"server:" not in head.lower()
    return json.loads(body)


@pytest.mark.parametrize(
    ("data", "instance"),
    [(HALF_A_HEAD, None), (HALF_A_BODY, "/v1/models"), (HALF_A_BODY.replace(b"models", b"datasets"), "/v1/datasets")],
)
def test_half_a_request_is_not_waited_for_for_ever(serve, settings, connect, data, instance) -> None:
    server = serve(settings.model_copy(update={"header_seconds": 0.2, "stall_seconds": 0.2}))
    said = problem_of(everything(connect(server, data)))
    assert (said["status"], said["code"], said.get("instance")) == (408, "request_too_slow", instance)
    assert "for 0.2 s" in said["detail"]


def test_who_says_nothing_gets_nothing(serve, settings, connect) -> None:
    server = serve(settings.model_copy(update={"header_seconds": 0.2}))
    assert everything(connect(server, b"")) == b""


def test_a_head_on_a_kept_connection_has_a_limit_of_its_own(serve, settings, connect) -> None:
    server = serve(settings.model_copy(update={"header_seconds": 0.2}))
    client = connect(server, b"GET /healthz HTTP/1.1\r\n" + HOST + b"\r\n" + HALF_A_HEAD)
    first, _, second = everything(client).partition(b'{"status":"ok"}')
    assert first.startswith(b"HTTP/1.1 200")
    assert problem_of(second)["code"] == "request_too_slow"


def test_an_upload_that_goes_on_after_its_answer_is_not_read_for_ever(serve, settings, connect) -> None:
    server = serve(settings.model_copy(update={"stall_seconds": 2}))  # the answer takes less on a busy machine, too
    answer = everything(connect(server, HALF_A_BODY.replace(b"1000000", b"99999999")))
    assert problem_of(answer)["code"] == "payload_too_large"


@pytest.mark.parametrize("half", [HALF_A_HEAD, HALF_A_BODY])
def test_half_requests_beyond_the_limit_go_and_the_service_answers(serve, settings, connect, half) -> None:
    server = serve(settings.model_copy(update=NEVER | {"max_connections": 20, "max_connections_per_address": 20}))
    clients = [connect(server, half) for _ in range(150)]
    assert server.client.get("/healthz").status_code == 200
    # Whoever was answered last came last, so all have come by now, and those that are too many went.
    assert sum(not closed(client) for client in clients) == 19


def test_a_whole_request_in_a_crowd_is_read_before_it_could_have_to_go(settings, connect, wait_until) -> None:
    app = FastAPI()
    app.get("/healthz")(lambda: {"status": "ok"})
    limit = 5 * ACCEPTED_AT_A_TIME  # some steps of the loop lie between letting in and reading
    few = NEVER | {"max_connections": limit, "max_connections_per_address": limit}
    with running(app, settings.model_copy(update=few)) as server:
        wait_until(lambda: server.server.started)
        go_on = threading.Event()
        server.server.servers[0].get_loop().call_soon_threadsafe(go_on.wait)
        # All of them wait in the kernel's queue, the whole request with more after it than may be open.
        connect(server, HALF_A_HEAD)
        whole = connect(server, HEALTHZ)
        for _ in range(5 * limit):
            connect(server, HALF_A_HEAD)
        go_on.set()
        assert everything(whole).endswith(b'{"status":"ok"}')
        assert everything(connect(server, HEALTHZ)).endswith(b'{"status":"ok"}')  # the whole crowd has been let in


def test_who_has_to_go_is_told(serve, settings, connect, wait_until) -> None:
    server = serve(settings.model_copy(update=NEVER | {"max_connections": 1, "max_connections_per_address": 1}))
    first = connect(server, HALF_A_BODY)
    wait_until(settings.tmp_dir.exists)  # the application is reading the body
    assert server.client.get("/healthz").status_code == 200
    said = problem_of(everything(first))
    assert (said["status"], said["code"], said["instance"]) == (503, "connections_exhausted", "/v1/models")


def test_an_upload_that_moves_is_kept_while_half_open_ones_come_and_go(serve, settings, connect, wait_until) -> None:
    server = serve(settings.model_copy(update=NEVER | {"max_connections": 10, "max_connections_per_address": 10}))
    size = 2_000_000
    head = b"PUT /v1/models HTTP/1.1\r\n" + HOST + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % size
    upload = connect(server, head)
    for _ in range(20):
        upload.sendall(b"x" * (size // 20))
        # The answer comes after the crowd: the server sees this part of the upload, its crowd, the next part.
        for _ in range(6):
            connect(server, HALF_A_HEAD)
        assert b'{"status":"ok"}' in everything(connect(server, HEALTHZ))
    answer = everything(upload)
    assert answer.startswith(b"HTTP/1.1 201"), answer


def test_where_all_connections_work_a_newcomer_is_told(serve, settings, connect) -> None:
    server = serve(settings.model_copy(update=NEVER | {"max_connections": 2, "max_connections_per_address": 2}))
    job = server.submit()["id"]
    server.client.close()
    stream = b"GET /v1/jobs/" + job.encode() + b"/events HTTP/1.1\r\n" + HOST + b"\r\n"
    for _ in range(2):
        assert b"200" in connect(server, stream).recv(65536)
    said = problem_of(everything(connect(server, b"")))
    assert (said["status"], said["code"]) == (503, "connections_exhausted")


def test_what_is_not_http_is_answered_with_a_problem(serve, settings, connect) -> None:
    server = serve(settings.model_copy(update=NEVER))
    said = problem_of(everything(connect(server, b"\x16\x03\x01 hello\r\n\r\n")))
    assert (said["status"], said["code"]) == (400, "request_malformed")


@pytest.mark.parametrize(
    "path", ["/healthz", "/openapi.json", "/nowhere", "/v1/jobs?limit=x", "/v1/schemas/plan-1.json"]
)
def test_every_answer_carries_the_headers(serve, settings, path) -> None:
    answer = serve(settings).client.get(path)
    assert {name: answer.headers.get(name) for name, _ in HEADERS} == dict(HEADERS)
    assert (answer.headers["x-content-type-options"], answer.headers["referrer-policy"]) == ("nosniff", "no-referrer")
    assert "server" not in answer.headers


def test_pages_add_what_a_browser_may_load(serve, settings) -> None:
    headers = serve(settings).client.get("/docs").headers
    assert all(value in headers[name] for name, value in HEADERS)
    assert headers["referrer-policy"].split(", ")[-1] == "same-origin"  # the last one counts; forms need an Origin
    assert "server" not in headers
    policies = headers["content-security-policy"]
    assert "default-src 'none'; script-src 'self'" in policies
    assert "unsafe" not in policies
    assert dict(HEADERS)["Content-Security-Policy"] in policies
    assert headers["x-content-type-options"] == "nosniff"


def test_small_answers_are_sent_at_once(serve, settings, connect) -> None:
    with listen("127.0.0.1", 0) as listener:
        assert listener.proto == socket.IPPROTO_TCP  # asyncio looks at this, of the accepted socket
        with socket.create_connection(listener.getsockname()), listener.accept()[0] as accepted:
            assert accepted.proto == socket.IPPROTO_TCP


def test_a_unix_socket_is_served_as_well(settings) -> None:
    with private_server(settings.model_copy(update={"max_connections_per_address": 1})) as client:
        assert list(client.jobs(limit=1)) == []


def test_the_limit_of_open_files_is_raised_and_kept_to(tmp_path, caplog) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(1000, before[1]), before[1]))
        files = raised_file_limit()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (files, before[1])
        assert files == min(before[1], 65_536)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    settings = Settings(home=tmp_path, max_connections=500)
    assert connection_limit(settings, RESERVED_FILES + 1000).total == 500
    assert not caplog.records
    assert connection_limit(settings, RESERVED_FILES + 100).total == 50
    assert "at most 50 connections at a time, not 500" in caplog.text


def test_a_reader_that_does_not_read_is_let_go(settings, connect, wait_until) -> None:
    steps: list[str] = []

    async def endless() -> AsyncIterator[bytes]:
        try:
            while True:
                await asyncio.sleep(0)  # as every real source of data does
                yield b"x" * 1_000_000
        finally:
            steps.append("over")

    app = FastAPI()
    app.get("/endless")(lambda: StreamingResponse(endless()))
    with running(app, settings.model_copy(update={"stall_seconds": 0.5})) as server:
        connect(server, b"GET /endless HTTP/1.1\r\n" + HOST + b"\r\n")
        wait_until(lambda: "over" in steps)


def test_what_a_slow_reader_takes_counts_before_the_transport_notices(settings, connect, wait_until) -> None:
    """The kernel lets the transport write again once megabytes are gone; until then only the kernel knows."""
    app = FastAPI()
    app.get("/large")(lambda: Response(b"x" * 20_000_000))
    patient = settings.model_copy(update=NEVER | {"min_bytes_per_second": 1})
    with running(app, patient) as server:
        client = connect(server, b"GET /large HTTP/1.1\r\n" + HOST + b"\r\n")
        (connection,) = wait_until_there(wait_until, server)
        begun = connection.waiting_since()
        assert begun is not None
        assert begun[0]
        client.recv(300_000, socket.MSG_WAITALL)
        wait_until(lambda: connection.waiting_since() > begun)
        client.close()


def wait_until_there(wait_until: Callable[..., None], server: Running) -> list[Any]:
    """The connections once each waits for a client that does not read."""
    connections = server.server.server_state.connections
    wait_until(lambda: connections and all(connection.flow.write_paused for connection in connections))
    return list(connections)


@dataclass
class Running:
    """A server of an application that is not ours."""

    server: uvicorn.Server
    port: int


@contextmanager
def running(app: FastAPI, settings: Settings) -> Iterator[Running]:
    server, listener = make_server(app, settings), listen("127.0.0.1", 0)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield Running(server, listener.getsockname()[1])
    finally:
        server.should_exit = True
        thread.join()

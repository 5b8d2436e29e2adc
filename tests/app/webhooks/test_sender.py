from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest

from app.delivery.addresses import Reach, parse_networks
from app.delivery.sender import READ_BYTES, Answer, Sender
from app.store.webhooks import Attempt
from tests.app.webhooks.conftest import SECRET

LOCAL = Reach(parse_networks("127.0.0.0/8"))


def _attempt(url: str, number: int = 1) -> Attempt:
    return Attempt("d" * 32, "a" * 32, url, SECRET, {"type": "job.failed", "data": {"id": "ä"}}, number)


def _send(url: str, reach: Reach = LOCAL, seconds: float = 60.0) -> Answer:
    async def send() -> Answer:
        async with Sender(reach, seconds) as sender:
            return await sender.send(_attempt(url))

    return asyncio.run(send())


@contextmanager
def _listener(serve: Callable[[socket.socket], None]) -> Iterator[str]:
    """The URL of a server that does `serve` with its first connection."""

    def accept() -> None:
        connection, _ = listener.accept()
        with connection:
            serve(connection)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=accept)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
        thread.join()


def test_a_message_is_signed_and_says_who_sends_it(receiver: Any) -> None:
    assert _send(receiver.url) == Answer(204)
    assert receiver.messages() == [{"type": "job.failed", "data": {"id": "ä"}}]
    headers, _ = receiver.received[0]
    assert headers["content-type"] == "application/json"
    assert headers["user-agent"].startswith("bitbudget/")
    assert headers["webhook-id"] == "d" * 32
    assert headers["host"] == f"127.0.0.1:{receiver.server.server_address[1]}"


@pytest.mark.parametrize("status", [200, 201, 204, 299])
def test_every_status_of_success_takes_the_message(receiver: Any, status: int) -> None:
    receiver.answers.append(status)
    assert _send(receiver.url).taken


@pytest.mark.parametrize("status", [400, 404, 410, 429, 500, 503])
def test_every_other_status_does_not(receiver: Any, status: int) -> None:
    receiver.answers.append(status)
    answer = _send(receiver.url)
    assert not answer.taken
    assert answer.error == f"it answered {status}, and only 200 to 299 takes a message"


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_no_redirect_is_followed(receiver: Any, status: int) -> None:
    receiver.answers.append(status)
    answer = _send(receiver.url)
    assert "redirects are not followed" in answer.error
    assert len(receiver.received) == 1


def test_a_private_address_is_not_even_connected_to(receiver: Any) -> None:
    answer = _send(receiver.url, Reach())
    assert answer.status is None
    assert "127.0.0.1 has no public address" in answer.error
    assert "BITBUDGET_WEBHOOK_NETWORKS" in answer.error
    assert receiver.received == []


@pytest.mark.parametrize("host", ["localhost", "127.1", "2130706433", "0x7f000001", "0"])
def test_nor_under_any_other_spelling(receiver: Any, host: str) -> None:
    answer = _send(f"http://{host}:{receiver.server.server_address[1]}/", Reach())
    assert answer.status is None
    assert receiver.received == []


def test_a_name_is_looked_up_once_and_what_was_checked_is_connected_to(
    receiver: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DNS rebinding: the second answer of a hostile name server would be an address inside."""
    port = receiver.server.server_address[1]
    answers = [["127.0.0.5", "10.0.0.1"], ["127.0.0.1"]]
    looked_up: list[str] = []

    def getaddrinfo(host: Any, port: Any, *_arguments: Any, **_options: Any) -> list[Any]:
        name = host.decode() if isinstance(host, bytes) else str(host)
        if not name.startswith("rebinding"):
            return real(host, port, *_arguments, **_options)
        looked_up.append(name)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in answers.pop(0)]

    real = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    answer = _send(f"http://rebinding.example.com:{port}/", Reach(parse_networks("127.0.0.5/32")))
    assert looked_up == ["rebinding.example.com"]
    # Nobody listens on 127.0.0.5; that the receiver on 127.0.0.1 got nothing shows that nothing else was tried.
    assert answer.status is None
    assert receiver.received == []
    assert _send(f"http://rebinding.example.com:{port}/").taken, "a name that leads to what is allowed is fine"
    assert receiver.received[0][0]["host"] == f"rebinding.example.com:{port}", "the name stays that of the URL"


def test_an_address_of_ipv6_is_named_as_http_wants_it() -> None:
    if not socket.has_dualstack_ipv6():
        pytest.skip("this machine has no IPv6")
    heads: list[bytes] = []

    def answer() -> None:
        connection, _ = listener.accept()
        with connection:
            heads.append(connection.recv(65536))
            connection.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")

    with socket.create_server(("::1", 0), family=socket.AF_INET6) as listener:
        thread = threading.Thread(target=answer)
        thread.start()
        port = listener.getsockname()[1]
        assert _send(f"http://[::1]:{port}/", Reach(parse_networks("::1/128"))).taken
        thread.join()
    assert f"host: [::1]:{port}\r\n".encode() in heads[0].lower()


def test_of_several_addresses_the_first_that_answers_takes_the_message(
    receiver: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = receiver.server.server_address[1]
    entries = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (f"127.0.0.{end}", port)) for end in (9, 1)]
    real = socket.getaddrinfo
    monkeypatch.setattr(
        socket,
        "getaddrinfo",
        lambda host, *rest, **options: entries if host == "many.example.com" else real(host, *rest, **options),
    )
    assert _send(f"http://many.example.com:{port}/").taken


def test_a_name_that_nobody_has_is_an_error_in_words() -> None:
    answer = _send("http://nobody.invalid/")
    assert answer.status is None
    assert answer.error


@pytest.mark.parametrize("url", ["http://" + "a" * 64 + ".example/", "http://a..b/", "http://ex%20ample.invalid/"])
def test_a_name_that_cannot_be_is_an_error_in_words(url: str) -> None:
    assert _send(url).error


def test_a_receiver_that_never_answers_is_left(wait_until: Callable[..., None]) -> None:
    left = threading.Event()

    def hang(connection: socket.socket) -> None:
        while connection.recv(65536):
            pass
        left.set()

    with _listener(hang) as url:
        assert _send(url, seconds=0.2) == Answer(None, "there was no answer within 0.2 s")
        assert left.wait(), "the connection is closed"


def test_one_that_drips_its_answer_does_not_hold_the_sender() -> None:
    def drip(connection: socket.socket) -> None:
        try:
            connection.sendall(b"HTTP/1.1 200 OK\r\n")
            while True:
                connection.sendall(b"x: y\r\n")
                if stop.wait(0.05):
                    return
        except OSError:
            return

    stop = threading.Event()
    with _listener(drip) as url:
        assert _send(url, seconds=0.5).status is None
        stop.set()


def test_an_endless_body_is_not_read_to_its_end(receiver: Any) -> None:
    sent: list[int] = []

    def endless(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        try:
            while True:
                sent.append(handler.wfile.write(b"x" * 65536))
        except OSError:
            return

    receiver.answers.append(endless)
    assert _send(receiver.url) == Answer(200)
    assert sum(sent) < 1000 * READ_BYTES, "what fits into the buffers of sockets, and no more"


def test_what_is_no_http_is_an_error_in_words() -> None:
    def other(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"SSH-2.0-OpenSSH_9.6\r\n")

    with _listener(other) as url:
        answer = _send(url)
    assert answer.status is None
    assert answer.error


def test_a_certificate_that_nobody_vouches_for_is_refused(receiver: Any) -> None:
    # The receiver speaks no TLS at all: the handshake itself fails.
    answer = _send(receiver.url.replace("http://", "https://"))
    assert answer.status is None
    assert receiver.received == []


def test_no_proxy_of_the_environment_is_used(receiver: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert _send(receiver.url).taken

"""The wire between a worker and its child, with another end that does as it likes."""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from collections.abc import Iterator

import pytest

from workers.wire import HEADER_LIMIT_BYTES, Wire, WireBroken, WireClosed


@pytest.fixture
def ends() -> Iterator[tuple[Wire, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield Wire(ours, limit_bytes=10_000_000), theirs


def message(header: object, data: bytes = b"", size: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack(">IQ", len(text), len(data) if size is None else size) + text + data


def received(wire: Wire):
    while (got := wire.receive()) is None:
        continue
    return got


def test_what_is_sent_arrives(ends):
    wire, theirs = ends
    other = Wire(theirs)
    data = bytes(range(256)) * 20_000
    sender = threading.Thread(target=other.send, args=({"do": "store"}, (data[:7], data[7:]), len(data)))
    sender.start()
    got = received(wire)
    assert (got.header, got.size_bytes, got.read()) == ({"do": "store"}, len(data), data)
    sender.join()
    assert wire.receive() is None
    other.close()
    with pytest.raises(WireClosed):
        received(wire)


@pytest.mark.parametrize(
    "sent",
    [
        message(b"{no json"),
        message([1, 2]),
        message(b"[" * 100_000),
        message({"do": "store"}, size=10_000_001),
        struct.pack(">IQ", HEADER_LIMIT_BYTES + 1, 0),
    ],
)
def test_what_is_no_message_is_said_to_be_none(ends, sent):
    wire, theirs = ends
    theirs.sendall(sent)
    with pytest.raises(WireBroken):
        received(wire)


@pytest.mark.parametrize("pause", [0.0, 0.02])
def test_who_sends_byte_by_byte_holds_nobody_up(ends, pause):
    """The worker asks whether to go on by the clock, and not only when nothing comes."""
    wire, theirs = ends
    stop = threading.Event()

    def trickle() -> None:
        theirs.sendall(struct.pack(">IQ", 1_000_000, 0))
        while not stop.is_set():
            try:
                theirs.send(b" ")
            except OSError:
                return
            time.sleep(pause)

    def check() -> None:
        raise KeyError("stop")

    thread = threading.Thread(target=trickle)
    thread.start()
    wire.check = check
    try:
        with pytest.raises(KeyError, match="stop"):
            received(wire)
    finally:
        stop.set()
        thread.join()


def test_who_does_not_read_holds_nobody_up(ends):
    wire, _theirs = ends

    def check() -> None:
        raise KeyError("stop")

    wire.check = check
    with pytest.raises(KeyError, match="stop"):
        wire.send({"do": "answer"}, (b"x" * 1_000_000 for _ in range(100)), 100_000_000)

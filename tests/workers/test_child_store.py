"""Results over a wire, in one piece and as files."""

from __future__ import annotations

import io
import socket
import threading
from collections.abc import Iterator

import pytest

from workers.child.store import AskingStore
from workers.wire import PIECE_BYTES, Wire, WireClosed

LONG = bytes(range(256)) * (PIECE_BYTES // 128)  # of two pieces


@pytest.fixture
def store() -> Iterator[AskingStore]:
    """A store at one end of a wire, whose other end keeps what comes in a dictionary."""
    near, far = socket.socketpair()
    kept: dict[str, bytes] = {}

    def serve() -> None:
        wire = Wire(far)
        try:
            while True:
                question = wire.receive()
                if question is None:
                    continue
                key, data = question.header["key"], question.read()
                if question.header["do"] == "store":
                    first = kept.setdefault(key, data)
                    wire.send({"yes": first == data}, (b"" if first == data else first,), len(first) * (first != data))
                else:
                    wire.send({"yes": key in kept}, (kept.get(key, b""),), len(kept.get(key, b"")))
        except WireClosed:
            wire.close()

    thread = threading.Thread(target=serve)
    thread.start()
    wire = Wire(near)
    yield AskingStore(wire)
    wire.close()
    thread.join()


def test_a_file_is_stored_whole_from_wherever_it_stands(store: AskingStore) -> None:
    file = io.BytesIO(LONG)
    file.seek(7)
    store.store_file("a", file)
    assert store.load("a") == LONG


def test_what_is_stored_comes_back_as_a_file(store: AskingStore) -> None:
    assert store.open("a") is None
    store.store("a", LONG)
    with store.open("a") as file:
        assert file.read() == LONG


def test_what_was_stored_first_counts_and_the_wire_goes_on(store: AskingStore) -> None:
    store.store("a", LONG)
    store.store_file("a", io.BytesIO(b"later"))
    assert store.load("a") == LONG

"""What a worker and the process that runs its jobs say to each other: JSON headers, each with bytes if it has any.

    length of the header (4 bytes) | length of the bytes (8 bytes) | header | bytes

The worker trusts nothing that it reads here: lengths are limited, and no call waits without asking `check`.
"""

from __future__ import annotations

import json
import socket
import struct
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

_LENGTHS = struct.Struct(">IQ")
PIECE_BYTES = 1024**2
HEADER_LIMIT_BYTES = 4 * 1024**2
TICK_SECONDS = 0.1


class WireClosed(Exception):
    """The other end is gone."""


class WireBroken(Exception):
    """The other end does not keep to the protocol."""


@dataclass(frozen=True, slots=True)
class Message:
    """A header, and the bytes that follow: to be read to their end before the next message is received."""

    header: dict[str, Any]
    size_bytes: int
    parts: Iterator[bytes]

    def read(self) -> bytes:
        """The bytes in one piece."""
        return b"".join(self.parts)


def _wait_on() -> None:
    """Wait for as long as it takes."""


class Wire:
    """One end of a stream socket.

    Args:
        check: called at least every `TICK_SECONDS` while a call waits; what it raises ends the call, after which the
            wire is of no more use.
        limit_bytes: how many bytes may belong to one header that is received.
    """

    def __init__(
        self, end: socket.socket, check: Callable[[], None] = _wait_on, limit_bytes: int | None = None
    ) -> None:
        end.settimeout(TICK_SECONDS)
        self._end = end
        self._limit = limit_bytes
        self._checked_at = 0.0
        self.check = check

    def send(self, header: Mapping[str, Any], parts: Iterable[bytes] = (), size_bytes: int = 0) -> None:
        """Send a header, and the `size_bytes` bytes of `parts`.

        Raises:
            WireClosed: the other end is gone.
        """
        text = json.dumps(header, allow_nan=False).encode()
        self._write(_LENGTHS.pack(len(text), size_bytes) + text)
        for part in parts:
            self._write(part)

    def receive(self) -> Message | None:
        """The next message; None if none begins within `TICK_SECONDS`.

        Raises:
            WireClosed: the other end is gone.
            WireBroken: what comes is no message, or longer than it may be.
        """
        try:
            first = self._end.recv(1)
        except TimeoutError:
            return None
        except ConnectionError as error:
            raise WireClosed from error
        if not first:
            raise WireClosed
        header_bytes, size_bytes = _LENGTHS.unpack(first + self._read(_LENGTHS.size - 1))
        if header_bytes > HEADER_LIMIT_BYTES or (self._limit is not None and size_bytes > self._limit):
            raise WireBroken(f"a message of {header_bytes} + {size_bytes} bytes is longer than it may be")
        try:
            header = json.loads(self._read(header_bytes))
        except (ValueError, RecursionError) as error:
            raise WireBroken("the header of a message is not JSON") from error
        if not isinstance(header, dict):
            raise WireBroken("the header of a message is not an object")
        return Message(header, size_bytes, self._parts(size_bytes))

    def close(self) -> None:
        """Let the other end know that nothing more comes."""
        self._end.close()

    def _check_by_clock(self) -> None:
        """However fast or slowly bytes come: who sends one now and then holds nobody up."""
        now = time.monotonic()
        if now - self._checked_at >= TICK_SECONDS:
            self._checked_at = now
            self.check()

    def _parts(self, size_bytes: int) -> Iterator[bytes]:
        left = size_bytes
        while left:
            part = self._read(min(left, PIECE_BYTES))
            left -= len(part)
            yield part

    def _read(self, count: int) -> bytes:
        data = bytearray(count)
        view = memoryview(data)
        while view:
            try:
                got = self._end.recv_into(view)
            except TimeoutError:
                self.check()
                continue
            except ConnectionError as error:
                raise WireClosed from error
            if got == 0:
                raise WireClosed
            view = view[got:]
            self._check_by_clock()
        return bytes(data)

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            try:
                view = view[self._end.send(view) :]
                self._check_by_clock()
            except TimeoutError:
                self.check()
            except ConnectionError as error:
                raise WireClosed from error

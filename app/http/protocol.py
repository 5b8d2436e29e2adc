"""HTTP/1.1 for clients that may be slow, silent or hostile: uvicorn's protocol, which waits for none for ever."""

from __future__ import annotations

import asyncio
import fcntl
import json
import logging
import socket
import struct
import termios
from dataclasses import dataclass
from typing import Any

import h11
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES, H11Protocol

from app.errors import PROBLEM_MEDIA_TYPE, problem
from app.http.connections import ConnectionTable
from app.http.waiting import Owed, Patience, Wait

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Guard:
    """What all connections of a server share."""

    patience: Patience
    table: ConnectionTable


class GuardedProtocol(H11Protocol):
    """One connection. `_look` is called after whatever may change who waits for whom; one timer ends the wait."""

    def __init__(self, *, guard: Guard, **uvicorn: Any) -> None:
        super().__init__(**uvicorn)
        self._guard = guard
        self._wait: Wait | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._head_begun = True  # who connects is expected to send a request, and not to wait for one to come up
        self._unread_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.flow = _WatchedFlow(transport, self)
        self._limit_silence()
        address = None if self.client is None else self.client[0]
        if self._guard.table.enter(self, address):
            self._look()
        else:
            logger.warning("refused a connection of %s: there are too many, and none waits for its client", address)
            self._answer("connections_exhausted", "too many connections are open; repeat the request in a moment")

    def connection_lost(self, exc: Exception | None) -> None:
        self._guard.table.leave(self)
        self._wait = None
        if self._timer is not None:
            self._timer.cancel()
        self._unset_keepalive_if_required()  # uvicorn leaves it running when the connection broke
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._head_begun = self._head_begun or self.conn.their_state is h11.IDLE
        super().data_received(data)
        self._look(len(data))

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.conn.their_state is h11.IDLE:
            self._head_begun = bool(self.conn.trailing_data[0])
        self._look()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._look()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._look()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._look()

    def send_400_response(self, msg: str) -> None:
        """In place of uvicorn's, which is plain text, and fails where an answer has begun."""
        self._answer("request_malformed", f"{msg.rstrip('.')}: this is not HTTP/1.1")

    def waiting_since(self) -> tuple[bool, float] | None:
        self._count_read()
        return None if self._wait is None else (self._wait.owed is not Owed.REQUEST, self._wait.since)

    def evict(self) -> None:
        self._give_up("connections_exhausted", "too many connections are open, and this one has waited for longest")

    def _look(self, received_bytes: int = 0) -> None:
        """See who waits for whom now, and count what came."""
        now = self.loop.time()
        owed = self._owed()
        if owed is None:
            self._wait = None
        elif self._wait is None or self._wait.owed is not owed:
            self._wait = Wait(owed, now, self._guard.patience)
            self._unread_bytes = self._unread()
        else:
            self._wait.moved(received_bytes if owed is Owed.BODY else 0, now)
        if self._wait is not None and (self._timer is None or self._timer.when() > self._wait.end):
            self._set_timer(self._wait.end)

    def _owed(self) -> Owed | None:
        if self.flow.write_paused or (self.transport.is_closing() and self.transport.get_write_buffer_size() > 0):
            return Owed.READING
        if self.transport.is_closing():
            return None
        if self.conn.their_state is h11.IDLE:
            return Owed.HEAD if self._head_begun else Owed.REQUEST
        self._head_begun = False
        if self.conn.their_state is not h11.SEND_BODY or self.flow.read_paused:
            return None
        return Owed.BODY if self.conn.our_state in (h11.SEND_RESPONSE, h11.SEND_BODY) else Owed.REST

    def _set_timer(self, end: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.loop.call_at(end, self._time_is_up)

    def _time_is_up(self) -> None:
        self._timer = None
        self._count_read()
        if self._wait is None:
            return
        if self.loop.time() < self._wait.end:  # bytes came since the timer was set
            self._set_timer(self._wait.end)
            return
        owed, seconds = self._wait.owed, self._guard.patience.seconds(self._wait.owed)
        if owed is not Owed.REQUEST:
            logger.info("gave up on %s after %g s: %s", self.client, seconds, owed.value)
        self._give_up("request_too_slow", f"the {owed.value} did not come, or stood still, for {seconds:g} s")

    def _give_up(self, code: str, detail: str) -> None:
        owed = None if self._wait is None else self._wait.owed
        self._wait = None
        silent = owed is Owed.HEAD and not self.conn.trailing_data[0]
        if owed is Owed.BODY or (owed is Owed.HEAD and not silent):
            self._answer(code, detail)
        elif owed is Owed.READING:
            self._abort()
        else:
            self.transport.close()

    def _answer(self, code: str, detail: str) -> None:
        """Answer with an error in the application's place, and close; where its answer has begun, break off."""
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self._abort()
            return
        if self.cycle is not None:
            self.cycle.disconnected = True  # what the application still sends goes nowhere
        in_request = self.conn.our_state is h11.SEND_RESPONSE
        members = problem(code, detail, instance=self.scope["path"] if in_request else None)
        body = json.dumps(members).encode()
        headers = [
            *self.server_state.default_headers,
            (b"content-type", PROBLEM_MEDIA_TYPE.encode()),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
        ]
        status = int(members["status"])
        events: list[Any] = [h11.Response(status_code=status, headers=headers, reason=STATUS_PHRASES[status])]
        if not (in_request and self.scope["method"] == "HEAD"):
            events.append(h11.Data(data=body))
        for event in (*events, h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()
        self._look()

    def _abort(self) -> None:
        if self.cycle is not None:
            self.cycle.disconnected = True
        self.transport.abort()

    def _limit_silence(self) -> None:
        # By default the kernel repeats for a quarter of an hour what nobody acknowledges.
        if self._socket().family in (socket.AF_INET, socket.AF_INET6):
            milliseconds = int(1000 * self._guard.patience.stall_seconds)
            self._socket().setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)

    def _socket(self) -> Any:
        return self.transport.get_extra_info("socket")

    def _count_read(self) -> None:
        """Count what the client has read of the answer since the last time."""
        if self._wait is None or self._wait.owed is not Owed.READING:
            return
        unread, before = self._unread(), self._unread_bytes
        self._unread_bytes = unread
        self._wait.moved(max(0, before - unread), self.loop.time())

    def _unread(self) -> int:
        """Bytes of answers that were not acknowledged yet.

        The transport's own buffer moves in steps as large as a third of the kernel's, some megabytes, in which a slow
        client seems to stand still; so the kernel is asked as well.
        """
        number = self._socket().fileno()
        if number < 0:
            return 0
        queued = struct.unpack("i", fcntl.ioctl(number, termios.TIOCOUTQ, b"\0" * 4))[0]
        return self.transport.get_write_buffer_size() + int(queued)


class _WatchedFlow(FlowControl):
    """Tells the connection when reading goes on: while the application has not read, the client owes nothing."""

    def __init__(self, transport: asyncio.Transport, connection: GuardedProtocol) -> None:
        super().__init__(transport)
        self._connection = connection

    def resume_reading(self) -> None:
        paused = self.read_paused
        super().resume_reading()
        if paused:
            self._connection._look()

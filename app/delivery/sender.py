"""One try of one message: POST it to the address of a user's choice, and come back within a bounded time."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from types import TracebackType
from typing import Any

import httpcore
import httpx

from app.delivery.addresses import Reach
from app.delivery.signature import signed_headers
from app.store.webhooks import Attempt

READ_BYTES = 64 * 1024
"""How much of an answer is read, so that its sender may end in good order; the rest of it is left."""

_FAILURES = (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException, OSError, UnicodeError)


class NotReachable(OSError):
    """The name has no address that messages may go to."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: an HTTP status, or, where it is None, the reason in `failure`."""

    status: int | None
    failure: str = ""

    @property
    def taken(self) -> bool:
        return self.status is not None and 200 <= self.status < 300

    @property
    def error(self) -> str:
        """Why the message was not taken."""
        if self.status is None:
            return self.failure
        if 300 <= self.status < 400:
            return f"it answered {self.status}, and redirects are not followed; give the address that it leads to"
        return f"it answered {self.status}, and only 200 to 299 takes a message"


class Sender:
    """Sends messages, any number at once, within one event loop.

    No redirect is followed, no proxy is used, and the body of an answer is never kept: what a server inside says must
    not be shown to whoever chose the address.

    Args:
        seconds: for everything: looking the name up, connecting, sending, the answer.
    """

    def __init__(self, reach: Reach, seconds: float) -> None:
        self._seconds = seconds
        # A connection for each message: one that is kept would outlive a change of the name's address.
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=httpx.create_ssl_context(),
            max_connections=None,
            max_keepalive_connections=0,
            network_backend=_Guarded(reach),
        )
        self._agent = f"bitbudget/{version('bitbudget')}"

    async def __aenter__(self) -> Sender:
        await self._pool.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        await self._pool.__aexit__(kind, error, traceback)

    async def send(self, attempt: Attempt) -> Answer:
        """POST the message, and say what came back."""
        status: int | None = None
        try:
            async with asyncio.timeout(self._seconds), self._stream(attempt) as response:
                status = response.status
                await _read(response)
        except TimeoutError:
            failure = f"there was no answer within {self._seconds:g} s"
        except _FAILURES as error:
            failure = str(error) or type(error).__name__
        else:
            return Answer(status)
        # The head of an answer is what counts, however its body ends.
        return Answer(status, failure)

    def _stream(self, attempt: Attempt) -> Any:
        body = json.dumps(attempt.payload, separators=(",", ":")).encode()
        url = httpx.URL(attempt.url)
        headers = {
            # httpcore writes an IPv6 address without its brackets.
            "host": url.netloc.decode(),
            "content-type": "application/json",
            "user-agent": self._agent,
            **signed_headers(attempt.secret, attempt.delivery_id, datetime.now(UTC), body),
        }
        target = httpcore.URL(
            scheme=url.raw_scheme, host=url.raw_host, port=url.port or None, target=url.raw_path or b"/"
        )
        return self._pool.stream("POST", target, headers=list(headers.items()), content=body)


class _Guarded(httpcore.AsyncNetworkBackend):
    """Looks a name up once, and connects to what it has found and checked: no second look-up can give another address.

    Args:
        reach: where connections may go to.
    """

    def __init__(self, reach: Reach) -> None:
        self._reach = reach
        self._inner = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        known = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        allowed = [str(entry[4][0]) for entry in known if str(entry[4][0]) in self._reach]
        if not allowed:
            raise NotReachable(
                f"{host} has no public address; whoever runs the service can name further networks in "
                "BITBUDGET_WEBHOOK_NETWORKS"
            )
        failure: Exception | None = None
        for address in dict.fromkeys(allowed):
            try:
                return await self._inner.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure or NotReachable(host)


async def _read(response: httpcore.Response) -> None:
    read = 0
    async for part in response.aiter_stream():
        read += len(part)
        if read >= READ_BYTES:
            return

"""What both clients send requests with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import httpx

from bitbudget_client.steps import Call, unreachable
from bitbudget_client.version import AGENT

URL = "http://127.0.0.1:8000"
PATIENCE_SECONDS = 60.0
TIMEOUT = httpx.Timeout(30.0, read=600.0, write=600.0)
"""An upload of some gigabytes is hashed and stored before it is answered."""

_NOTHING_THERE = (httpx.ConnectError, httpx.ConnectTimeout, httpx.UnsupportedProtocol)


@dataclass(frozen=True, slots=True)
class Server:
    """A server, and how one deals with it.

    Args:
        url: of the server.
        key: what `bitbudget keys create` printed; None: the server asks for none.
        patience_seconds: how long it may be away, or ask to be left alone, before a call gives up.
        pieces_from_bytes: from this size on an upload can be continued after a cut.
        timeout: of single requests.
    """

    url: str
    key: str | None
    patience_seconds: float
    pieces_from_bytes: int
    timeout: httpx.Timeout

    def __post_init__(self) -> None:
        if self.patience_seconds < 0 or self.pieces_from_bytes < 1:
            raise ValueError(
                f"patience_seconds is 0 or more and pieces_from_bytes 1 or more, got {self.patience_seconds} and "
                f"{self.pieces_from_bytes}"
            )

    def arguments(self) -> dict[str, Any]:
        """What a client of httpx is made with."""
        headers = {"User-Agent": AGENT, **({"Authorization": f"Bearer {self.key}"} if self.key else {})}
        return {"base_url": self.url, "headers": headers, "timeout": self.timeout}


class Contact:
    """Whether the server has ever answered: one that never did is not waited for."""

    def __init__(self) -> None:
        self._made = False

    def made(self) -> None:
        """It has."""
        self._made = True

    def failed(self, error: httpx.TransportError) -> httpx.TransportError:
        """The error, for whoever may wait and try again.

        Raises:
            Unreachable: nobody was ever there.
        """
        if not self._made and isinstance(error, _NOTHING_THERE):
            raise unreachable(error) from error
        return error


def request_of(client: httpx.Client | httpx.AsyncClient, call: Call) -> httpx.Request:
    """The request of a call, as this client sends it."""
    headers: dict[str, str] = dict(call.headers)
    if call.body is not None:
        headers["Content-Length"] = str(call.body.size_bytes)
    arguments: dict[str, Any] = {} if call.json is None else {"json": call.json}
    request = client.build_request(call.method, call.path, params=call.params, headers=headers, **arguments)
    if call.body is None:
        return request
    # a client makes no request of a stream that can be read both ways
    return httpx.Request(
        request.method, request.url, headers=request.headers, stream=call.body, extensions=request.extensions
    )

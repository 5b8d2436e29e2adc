"""Both clients on a server that is a function: the same tests run blocking and not."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import anyio
import httpx
import pytest

from bitbudget_client import AsyncClient, Client

Handler = Callable[[httpx.Request], httpx.Response]


class Driver:
    """Runs functions of a client; `pauses` are the seconds that it would have waited."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.pauses: list[float] = []

    def run(self, handler: Handler, function: Callable[[Any], Any], **arguments: Any) -> Any:
        """What `function` gives for a client whose requests `handler` answers."""
        arguments["transport"] = httpx.MockTransport(handler)
        if self.kind == "sync":
            with Client("http://bitbudget.test", **arguments) as client:
                return _listed(function(client))

        async def awaited() -> Any:
            async with AsyncClient("http://bitbudget.test", **arguments) as client:
                result = function(client)
                if isinstance(result, AsyncIterator):
                    return [row async for row in result]
                return await result if inspect.isawaitable(result) else result

        return anyio.run(awaited)


@pytest.fixture(params=["sync", "async"])
def driver(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Driver:
    made = Driver(request.param)

    async def sleep(seconds: float) -> None:
        made.pauses.append(seconds)

    monkeypatch.setattr("bitbudget_client.sync_connection.time.sleep", made.pauses.append)
    monkeypatch.setattr("bitbudget_client.async_connection.anyio.sleep", sleep)
    return made


def _listed(result: Any) -> Any:
    return list(result) if isinstance(result, Iterator) else result


class Broken(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A body that ends with a cut connection."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def __iter__(self) -> Iterator[bytes]:
        yield self._data
        raise httpx.ReadError("the line was cut")

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for part in self:
            yield part


def job_document(**members: Any) -> dict[str, Any]:
    """A job as the API answers it."""
    nothing = ("name", "outcome", "stage", "eta_seconds", "estimate", "dataset_id", "parent_id", "summary", "error")
    return {
        "id": "0" * 32,
        "tags": [],
        "state": "queued",
        "progress": 0.0,
        "attempt": 0,
        "request": {},
        "finished_at": None,
        **dict.fromkeys(nothing),
        **members,
    }

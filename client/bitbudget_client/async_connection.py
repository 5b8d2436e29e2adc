"""Doing what steps say, one after the other, while others get on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, closing
from typing import Any, TypeVar

import anyio
import httpx

from bitbudget_client.calls import POLL_SECONDS, event_call, get
from bitbudget_client.connection import Contact, Server, request_of
from bitbudget_client.documents import Document, Event
from bitbudget_client.errors import Problem
from bitbudget_client.events import EventLines
from bitbudget_client.steps import Call, Patience, Pause, Steps, Work, checked

T = TypeVar("T")


class AsyncConnection:
    """Connections to one server."""

    def __init__(self, server: Server, transport: httpx.AsyncBaseTransport | None) -> None:
        self.server = server
        self._http = httpx.AsyncClient(**server.arguments(), transport=transport)
        self._contact = Contact()

    async def close(self) -> None:
        """Close all of them."""
        await self._http.aclose()

    async def run(self, steps: Steps[T]) -> T:
        """What the steps result in."""
        with closing(steps):
            outcome: Any = None
            error: httpx.TransportError | None = None
            while True:
                try:
                    step = steps.send(outcome) if error is None else steps.throw(error)
                except StopIteration as end:
                    result: T = end.value
                    return result
                outcome = error = None
                if isinstance(step, Pause):
                    await anyio.sleep(step.seconds)
                elif isinstance(step, Work):
                    outcome = await anyio.to_thread.run_sync(step.function)
                else:
                    try:
                        outcome = await self._send(step)
                    except httpx.TransportError as failure:
                        error = self._contact.failed(failure)

    async def pages(
        self, page: Callable[..., Steps[tuple[list[T], str | None]]], filters: Document
    ) -> AsyncIterator[T]:
        """The rows of all pages, each asked for when it is needed."""
        cursor: str | None = None
        while True:
            rows, cursor = await self.run(page(self.server.patience_seconds, **{**filters, "cursor": cursor}))
            for row in rows:
                yield row
            if cursor is None:
                return

    async def events(self, path: str, after: int) -> AsyncIterator[Event]:
        """The events of the job at `path`, over as many connections as it takes."""
        lines, patience = EventLines(after), Patience(self.server.patience_seconds)
        while True:
            try:
                async for event in self._events_of_one(path, lines):
                    patience.renew()
                    yield event
            except (httpx.TransportError, Problem) as error:
                failed = self._contact.failed(error) if isinstance(error, httpx.TransportError) else error
                await anyio.sleep(patience.pause(failed).seconds)
                continue
            if (await self.run(get(path, self.server.patience_seconds)))["finished_at"] is not None:
                return
            await anyio.sleep(POLL_SECONDS)  # a proxy may end streams at once

    async def _events_of_one(self, path: str, lines: EventLines) -> AsyncIterator[Event]:
        request = request_of(self._http, event_call(path, lines.begin()))
        async with aclosing(await self._http.send(request, stream=True)) as answer:
            self._contact.made()
            if not answer.is_success:
                await answer.aread()
            async for line in checked(answer).aiter_lines():
                if event := lines.take(line):
                    yield event

    async def _send(self, call: Call) -> httpx.Response:
        answer = await self._http.send(request_of(self._http, call), stream=call.receiver is not None)
        self._contact.made()
        if call.receiver is not None:
            async with aclosing(answer):
                if not answer.is_success:
                    await answer.aread()
                else:
                    with call.receiver(answer) as take:
                        async for part in answer.aiter_bytes():
                            take(part)
        return answer

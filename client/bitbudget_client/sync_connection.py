"""Doing what steps say, one after the other, and blocking meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any, TypeVar

import httpx

from bitbudget_client.calls import POLL_SECONDS, event_call, get
from bitbudget_client.connection import Contact, Server, request_of
from bitbudget_client.documents import Document, Event
from bitbudget_client.errors import Problem
from bitbudget_client.events import EventLines
from bitbudget_client.steps import Call, Patience, Pause, Steps, Work, checked

T = TypeVar("T")


class Connection:
    """Connections to one server."""

    def __init__(self, server: Server, transport: httpx.BaseTransport | None) -> None:
        self.server = server
        self._http = httpx.Client(**server.arguments(), transport=transport)
        self._contact = Contact()

    def close(self) -> None:
        """Close all of them."""
        self._http.close()

    def run(self, steps: Steps[T]) -> T:
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
                    time.sleep(step.seconds)
                elif isinstance(step, Work):
                    outcome = step.function()
                else:
                    try:
                        outcome = self._send(step)
                    except httpx.TransportError as failure:
                        error = self._contact.failed(failure)

    def pages(self, page: Callable[..., Steps[tuple[list[T], str | None]]], filters: Document) -> Iterator[T]:
        """The rows of all pages, each asked for when it is needed."""
        cursor: str | None = None
        while True:
            rows, cursor = self.run(page(self.server.patience_seconds, **{**filters, "cursor": cursor}))
            yield from rows
            if cursor is None:
                return

    def events(self, path: str, after: int) -> Iterator[Event]:
        """The events of the job at `path`, over as many connections as it takes."""
        lines, patience = EventLines(after), Patience(self.server.patience_seconds)
        while True:
            try:
                for event in self._events_of_one(path, lines):
                    patience.renew()
                    yield event
            except (httpx.TransportError, Problem) as error:
                failed = self._contact.failed(error) if isinstance(error, httpx.TransportError) else error
                time.sleep(patience.pause(failed).seconds)
                continue
            if self.run(get(path, self.server.patience_seconds))["finished_at"] is not None:
                return
            time.sleep(POLL_SECONDS)  # a proxy may end streams at once

    def _events_of_one(self, path: str, lines: EventLines) -> Iterator[Event]:
        request = request_of(self._http, event_call(path, lines.begin()))
        with closing(self._http.send(request, stream=True)) as answer:
            self._contact.made()
            if not answer.is_success:
                answer.read()
            for line in checked(answer).iter_lines():
                if event := lines.take(line):
                    yield event

    def _send(self, call: Call) -> httpx.Response:
        answer = self._http.send(request_of(self._http, call), stream=call.receiver is not None)
        self._contact.made()
        if call.receiver is not None:
            with closing(answer):
                if not answer.is_success:
                    answer.read()
                else:
                    with call.receiver(answer) as take:
                        for part in answer.iter_bytes():
                            take(part)
        return answer

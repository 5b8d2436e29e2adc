"""A receiver of messages: a real HTTP server whose answers a test decides."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from standardwebhooks.webhooks import Webhook

from app.settings import Settings
from app.store import webhooks
from app.store.engine import Sessions, clock
from app.store.tables import WebhookRow

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


@dataclass
class Receiver:
    """What came in, and what is answered: `answers` in turn, then 204."""

    server: ThreadingHTTPServer
    received: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    answers: list[Callable[[BaseHTTPRequestHandler], None] | int] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}/hook?from=bitbudget"

    def messages(self, secret: str = SECRET) -> list[dict[str, Any]]:
        """All messages, each checked by another implementation of the standard."""
        return [Webhook(secret).verify(body, headers) for headers, body in self.received]

    def ids(self) -> list[str]:
        return [headers["webhook-id"] for headers, _ in self.received]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            told.received.append(({name.lower(): value for name, value in self.headers.items()}, body))
            answer = told.answers.pop(0) if told.answers else 204
            if callable(answer):
                answer(self)
            else:
                self.send_response(answer)
                self.send_header("location", "http://127.0.0.1:1/elsewhere")
                self.end_headers()

        def log_message(self, *_arguments: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        told = Receiver(server)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield told
        server.shutdown()
        thread.join()


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"webhook_networks": "127.0.0.0/8", "dispatch_interval_seconds": 0.05})


@pytest.fixture
def new_webhook(sessions: Sessions, receiver: Receiver) -> Callable[..., WebhookRow]:
    """`new_webhook(id)`: a webhook of the default project that leads to the receiver."""

    def make(webhook_id: str = "a" * 32, *, url: str | None = None, events: list[str] | None = None) -> WebhookRow:
        with sessions.begin() as session:
            return webhooks.put_webhook(session, webhook_id, url or receiver.url, SECRET, events, clock(session))

    return make

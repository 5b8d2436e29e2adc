from __future__ import annotations

import logging
import os
import socket
from datetime import timedelta
from pathlib import Path

import pytest
import redis
from kombu import Connection, Consumer, Queue

from app.lifecycle.messages import PROCESSED, QUEUE_NAME, TASK_NAME, celery_app, clean_processed, waker
from app.settings import Settings


@pytest.fixture(params=["filesystem", "redis"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    broker_url = "filesystem://" if request.param == "filesystem" else request.getfixturevalue("redis_url")
    return Settings(home=tmp_path, broker_url=broker_url)


def _receive(settings: Settings, expected: int) -> list[tuple[str, object]]:
    """The (task, arguments) of the messages that wait, as another process would receive them."""
    options = celery_app(settings).conf.broker_transport_options
    got: list[tuple[str, object]] = []

    def take(body: list[object], message: object) -> None:
        got.append((message.headers["task"], body[0]))  # type: ignore[attr-defined]
        message.ack()  # type: ignore[attr-defined]

    with Connection(settings.broker_url, transport_options=options) as connection:
        queue = Queue(QUEUE_NAME, exchange=QUEUE_NAME, routing_key=QUEUE_NAME)
        with Consumer(connection, queues=[queue], callbacks=[take], accept=["json"]):
            while len(got) < expected:
                try:
                    connection.drain_events(timeout=1)
                except TimeoutError:
                    continue
    return got


def test_a_message_carries_the_name_of_the_task_and_nothing_else(settings: Settings) -> None:
    wake = waker(settings)
    wake()
    wake()
    assert _receive(settings, 2) == [(TASK_NAME, []), (TASK_NAME, [])]


def test_received_files_are_removed_after_a_while(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    waker(settings)()
    _receive(settings, 1)
    processed = list((settings.broker_folder / PROCESSED).iterdir())
    assert len(processed) == 1
    assert clean_processed(settings, timedelta(minutes=1)) == 0
    os.utime(processed[0], (0, 0))
    assert clean_processed(settings, timedelta(minutes=1)) == 1


def test_a_broker_that_is_away_costs_a_line_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    wake = waker(Settings(home=tmp_path, broker_url=f"redis://127.0.0.1:{port}/0"))
    connect = redis.Connection._connect
    tries: list[object] = []

    def counted(connection: redis.Connection) -> socket.socket:
        tries.append(connection)
        return connect(connection)

    monkeypatch.setattr(redis.Connection, "_connect", counted)
    with caplog.at_level(logging.WARNING, logger="app.lifecycle.messages"):
        wake()
    assert len(tries) <= 2  # a request waits for them: the connection, and once more for the channel
    assert [record.getMessage() for record in caplog.records if record.name == "app.lifecycle.messages"] == [
        "no worker could be told that there is work; the dispatcher will repeat it"
    ]

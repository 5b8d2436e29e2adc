from __future__ import annotations

import fcntl
import os
import threading
import time
import uuid
from pathlib import Path

import pytest
from kombu import Connection, Exchange, Queue


@pytest.fixture
def queue_name() -> str:
    return f"q{uuid.uuid4().hex}"  # kombu remembers for each process which queues have been declared


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, str]:
    for name in ("messages", "processed", "control"):
        (tmp_path / name).mkdir()
    messages = str(tmp_path / "messages")
    return {
        "data_folder_in": messages,
        "data_folder_out": messages,
        "processed_folder": str(tmp_path / "processed"),
        "control_folder": str(tmp_path / "control"),
        "store_processed": True,
    }


@pytest.fixture
def receive(folders, queue_name):
    """Take one message; None if there is none to be taken."""
    connection = Connection("filesystem://", transport="workers.file_broker:Transport", transport_options=folders)
    queue = Queue(queue_name, Exchange(queue_name), routing_key=queue_name, channel=connection.channel())
    queue.declare()

    def receive() -> object:
        message = queue.get(no_ack=True)
        return None if message is None else message.payload

    yield receive
    connection.release()


@pytest.fixture
def send(folders, queue_name):
    """Send by kombu's own transport, as the API does."""
    connection = Connection("filesystem://", transport_options=folders)
    queue = Queue(queue_name, Exchange(queue_name), routing_key=queue_name)

    def send(payload: object) -> None:
        connection.Producer().publish(payload, exchange=queue.exchange, routing_key=queue_name, declare=[queue])

    yield send
    connection.release()


def test_messages_come_once_and_in_order(send, receive):
    for i in range(5):
        send({"i": i})
        time.sleep(0.002)  # names begin with milliseconds
    assert [receive() for _ in range(6)] == [{"i": i} for i in range(5)] + [None]


def test_a_message_that_is_still_written_is_left_alone(folders, send, receive, monkeypatch, wait_until):
    """The two moments in which kombu's own reader loses a message: created and not locked, locked and not whole."""
    send({"whole": True})
    (written,) = Path(folders["data_folder_in"]).iterdir()
    content = written.read_bytes()
    written.write_bytes(b"")
    assert receive() is None
    with written.open("r+b", buffering=0) as writer:
        fcntl.flock(writer, fcntl.LOCK_EX)
        writer.write(content[:10])
        answers, asks = [], threading.Event()
        flock = fcntl.flock

        def asking(file: object, flags: int) -> None:
            if getattr(file, "name", None) == str(written):
                asks.set()
            flock(file, flags)

        monkeypatch.setattr(fcntl, "flock", asking)
        reader = threading.Thread(target=lambda: answers.append(receive()))
        reader.start()
        wait_until(lambda: asks.is_set() or answers)
        assert answers == []  # it waits for the lock
        writer.write(content[10:])
    reader.join()
    assert answers == [{"whole": True}]


def test_a_message_whose_writer_died_does_not_stay_for_ever(folders, queue_name, send, receive):
    broken = Path(folders["data_folder_in"]) / f"0_x.{queue_name}.msg"
    broken.write_bytes(b'{"body"')
    send({"next": 1})
    assert receive() == {"next": 1}
    assert broken.exists()
    os.utime(broken, (0, 0))
    assert receive() is None
    assert not broken.exists()

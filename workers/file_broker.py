"""kombu's broker of files, for the side that reads: it never takes a message that is still being written.

kombu creates a message under its final name, then locks and fills it; its reader takes what it sees without asking for
the lock. A message seen too early is lost, and ends the worker with an error of the JSON parser (seen once in about a
hundred messages on a busy machine).
"""

from __future__ import annotations

import fcntl
import time
from collections.abc import Callable
from pathlib import Path
from queue import Empty
from typing import Any

from kombu.transport import filesystem
from kombu.utils import json as kombu_json

BROKEN_AFTER_SECONDS = 60.0
"""Age at which a message that cannot be read is taken for one whose writer died."""

# kombu's own reader of JSON, which knows the types that its writer marks; it is not annotated.
_loads: Callable[[str], Any] = kombu_json.loads


class Channel(filesystem.Channel):
    """Reads messages that are complete, oldest first."""

    def _get(self, queue: str, timeout: float | None = None) -> Any:  # noqa: ARG002 - never waits, as kombu's own
        for path in sorted(Path(self.data_folder_in).glob(f"*.{queue}.msg")):
            message = _read(path)
            if message is None and time.time() - _written_at(path) < BROKEN_AFTER_SECONDS:
                continue
            try:
                path.rename(Path(self.processed_folder) / path.name)
            except FileNotFoundError:
                continue  # somebody else took it
            if message is not None:
                return message
        raise Empty


class Transport(filesystem.Transport):
    """For the setting `broker_transport`, beside a `broker_url` of `filesystem://`."""

    Channel = Channel


def _read(path: Path) -> Any | None:
    """The message in the file; None if it is gone or not complete."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH)  # the writer holds it until the message is whole
            return _loads(file.read().decode())
    except (FileNotFoundError, ValueError):
        return None


def _written_at(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return float("inf")

"""The results of stages as the process that runs models sees them: the worker keeps them, and is asked."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from functools import partial
from typing import IO, Any

from workers.wire import PIECE_BYTES, Message, Wire


class AskingStore:
    """A `pipeline.store.Store` at the other end of a wire."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def exists(self, key: str) -> bool:
        return bool(self._ask({"do": "exists", "key": key}).header["yes"])

    def load(self, key: str) -> bytes | None:
        answer = self._ask({"do": "load", "key": key})
        return answer.read() if answer.header["yes"] else None

    def open(self, key: str) -> IO[bytes] | None:
        answer = self._ask({"do": "load", "key": key})
        if not answer.header["yes"]:
            return None
        file = tempfile.TemporaryFile()  # noqa: SIM115 - whoever asked closes it
        for part in answer.parts:
            file.write(part)
        file.seek(0)
        return file

    def store_file(self, key: str, file: IO[bytes]) -> None:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        pieces = iter(partial(file.read, PIECE_BYTES), b"")
        for _ in self._ask({"do": "store", "key": key}, pieces, size).parts:
            pass  # what was stored before: to be read to its end

    def store(self, key: str, data: bytes) -> bytes:
        answer = self._ask({"do": "store", "key": key}, (data,), len(data))
        return data if answer.header["yes"] else answer.read()

    def drop(self, prefix: str) -> None:
        self._ask({"do": "drop", "key": prefix})

    def take(self, key: str) -> bool:
        return bool(self._ask({"do": "take", "key": key}).header["yes"])

    def give_back(self, key: str) -> None:
        self._ask({"do": "give back", "key": key})

    def _ask(self, question: dict[str, Any], parts: Iterable[bytes] = (), size_bytes: int = 0) -> Message:
        self._wire.send(question, parts, size_bytes)
        while True:
            answer = self._wire.receive()
            if answer is not None:
                return answer

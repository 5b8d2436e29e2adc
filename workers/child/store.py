"""The results of stages as the process that runs models sees them: the worker keeps them, and is asked."""

from __future__ import annotations

from collections.abc import Iterable
from typing import IO, Any

from pipeline.store import file_of, pieces_of
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
        return file_of(answer.parts) if answer.header["yes"] else None

    def store_file(self, key: str, file: IO[bytes]) -> None:
        for _ in self._ask({"do": "store", "key": key}, *pieces_of(file, PIECE_BYTES)).parts:
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

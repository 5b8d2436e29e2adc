"""What a client still owes, and for how long it is waited for."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from app.settings import Settings


class Owed(StrEnum):
    """What the client has to do next; the server cannot go on before it has."""

    REQUEST = "next request"
    """Nothing is half-done: an open connection between two requests."""
    HEAD = "request line and headers"
    BODY = "request body"
    REST = "rest of a request that was answered"
    READING = "reading of the answer"


KEEP_ALIVE_SECONDS = 75
"""Longer than proxies keep a connection (nginx: 60 s): who closes first must be the one that sends requests."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait for what a client owes.

    Args:
        head_seconds: for a whole head; bytes do not extend it.
        stall_seconds: for a body, or the reading of an answer, that does not move.
        least_rate: bytes per second below which a body or an answer counts as standing still.
    """

    head_seconds: float
    stall_seconds: float
    least_rate: int

    @classmethod
    def of(cls, settings: Settings) -> Patience:
        return cls(settings.header_seconds, settings.stall_seconds, settings.min_bytes_per_second)

    def seconds(self, owed: Owed) -> float:
        if owed is Owed.REQUEST:
            return KEEP_ALIVE_SECONDS
        return self.head_seconds if owed is Owed.HEAD else self.stall_seconds


class Wait:
    """One wait for a client, which moves forward as bytes do.

    `since` begins as the moment of the last step. Each byte moves it by 1 / least_rate seconds, up to now. So a client
    that is fast enough is never late, however long it takes, and one that sends a byte now and then gains nothing.
    """

    __slots__ = ("_patience", "owed", "since")

    def __init__(self, owed: Owed, now: float, patience: Patience) -> None:
        self.owed = owed
        self.since = now
        self._patience = patience

    def moved(self, size_bytes: int, now: float) -> None:
        """Count bytes of a body that came, or of an answer that were read."""
        self.since = min(now, self.since + size_bytes / self._patience.least_rate)

    @property
    def end(self) -> float:
        """The moment at which the client is given up."""
        return self.since + self._patience.seconds(self.owed)

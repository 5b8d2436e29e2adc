"""Logs that no client can flood: of lines that it can provoke, some of each kind in a minute."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

PERIOD_SECONDS = 60.0
LINES_PER_PERIOD = 10
MOST_KINDS = 1000

_PROVOKED = ("uvicorn.error", "asyncio", "app.http.protocol")
"""Loggers of what a connection can bring about: invalid requests, refusals, sockets that break."""


class RepetitionLimit(logging.Filter):
    """Lets some records of each kind through in a period; the first one of the next says how many it left out.

    A kind is the first line of the text before its arguments are put in, so texts may name who it was.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._kinds: dict[str, tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        kind, now = str(record.msg).partition("\n")[0], self._clock()
        if len(self._kinds) > MOST_KINDS:
            self._kinds.clear()
        began, count = self._kinds.get(kind, (now, 0))
        left_out = 0
        if now - began >= PERIOD_SECONDS:
            left_out = max(0, count - LINES_PER_PERIOD)
            began, count = now, 0
        self._kinds[kind] = (began, count + 1)
        if left_out:
            record.msg = f"{record.msg} ({left_out} more like this were left out)"
        return count < LINES_PER_PERIOD


def limit_repetitions() -> None:
    """Put the limit on the loggers whose lines a client can provoke; doing it again changes nothing."""
    for name in _PROVOKED:
        logger = logging.getLogger(name)
        if not any(isinstance(given, RepetitionLimit) for given in logger.filters):
            logger.addFilter(RepetitionLimit())

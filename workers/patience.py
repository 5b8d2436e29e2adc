"""Waiting for a database that restarts: a job that ran for an hour does not fail for a minute without one."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from sqlalchemy.exc import InterfaceError, OperationalError

logger = logging.getLogger(__name__)

T = TypeVar("T")

UNREACHABLE = (OperationalError, InterfaceError)
"""What SQLAlchemy raises for a database that is away, starting, or too busy to be locked."""

PATIENCE_SECONDS = 120.0
FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 5.0


def patiently(operation: Callable[[], T], check: Callable[[], None], patience_seconds: float = PATIENCE_SECONDS) -> T:
    """`operation()`, repeated with growing pauses while the database cannot be reached.

    Args:
        operation: safe to repeat: its transaction either happened or did not.
        check: called between attempts; raises if the job has to stop.

    Raises:
        sqlalchemy.exc.OperationalError, sqlalchemy.exc.InterfaceError: still unreachable after `patience_seconds`.
    """
    end = time.monotonic() + patience_seconds
    pause = FIRST_PAUSE_SECONDS
    while True:
        try:
            return operation()
        except UNREACHABLE as error:
            if time.monotonic() + pause > end:
                raise
            logger.warning("the database does not answer, trying again in %.1f s: %s", pause, error.orig)
        check()
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

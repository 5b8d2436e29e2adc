"""Waiting for a database that restarts: a job that ran for an hour does not fail for a minute without one."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from sqlalchemy.exc import InterfaceError, OperationalError

from app.store.objects import StorageUnavailable

logger = logging.getLogger(__name__)

T = TypeVar("T")

UNREACHABLE = (OperationalError, InterfaceError, StorageUnavailable)
"""What says that the database is away, starting, or too busy to be locked, or the storage beside it."""

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
            logger.warning("no answer, trying again in %.1f s: %s", pause, getattr(error, "orig", error))
        check()
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

"""What a child prints, into the worker's log: native libraries print what models give them reason to, without end."""

from __future__ import annotations

import logging
import threading
from typing import IO

logger = logging.getLogger(__name__)

LINES = 200
LINE_BYTES = 500


class Output:
    """Reads a pipe to its end, in a thread, so that whoever writes never waits; the log gets some of it.

    Args:
        pid: of the process that writes.
    """

    def __init__(self, pipe: IO[bytes], pid: int) -> None:
        self._pipe = pipe
        self._pid = pid
        self._left = LINES
        threading.Thread(target=self._run, name="child-output", daemon=True).start()

    def renew(self) -> None:
        """Another job begins, and may say as much."""
        self._left = LINES

    def _run(self) -> None:
        with self._pipe:
            while line := self._pipe.readline(LINE_BYTES):
                if self._left > 0:
                    self._left -= 1
                    logger.info("process %d: %s", self._pid, line.decode(errors="replace").rstrip())
                    if self._left == 0:
                        logger.warning("process %d prints more than %d lines; the rest is dropped", self._pid, LINES)

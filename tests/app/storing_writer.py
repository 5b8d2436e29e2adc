"""Stores contents beside the database, says when the first part lies there, and waits to be killed.

Usage: python storing_writer.py DATABASE_URL TARGET ENDPOINT
"""

from __future__ import annotations

import io
import sys
import time

from app.store.blobs import write_stream
from app.store.engine import open_sessions
from app.store.objects import PART_BYTES, Objects
from app.store.tables import DEFAULT_PROJECT


class Stalling(io.BytesIO):
    """Gives the first part, then nothing for ever."""

    def read(self, size: int | None = -1) -> bytes:
        if self.tell() >= PART_BYTES:
            sys.stdout.write("stored\n")
            sys.stdout.flush()
            time.sleep(3600)
        return super().read(size)


def main() -> None:
    database_url, target, endpoint = sys.argv[1:]
    sessions = open_sessions(database_url, Objects(target, endpoint or None)).of(DEFAULT_PROJECT)
    write_stream(sessions, Stalling(bytes(PART_BYTES + 5)), "0" * 64, PART_BYTES + 5)


if __name__ == "__main__":
    main()

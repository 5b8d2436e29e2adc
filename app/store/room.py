"""Giving free pages of an SQLite file back to the disk.

PostgreSQL does the like by itself: autovacuum lets removed rows be overwritten, and cuts off what is free at the end.
"""

from __future__ import annotations

from app.store.engine import Sessions

PAGES_PER_TRANSACTION = 1024
"""4 MiB: whoever wants to write waits for a third of a second on a busy disk."""
TRANSACTIONS = 16
PAGES_KEPT = 4096
"""16 MiB: what the next job writes finds room without that the file has to grow again."""


def give_back(sessions: Sessions, *, pages_kept: int = PAGES_KEPT) -> bool:
    """Shorten the file by at most 64 MiB of free pages; whether there are more.

    Does nothing on PostgreSQL, nor on a file that was made before SQLite was told to note where pages are used: there
    they are written again, and the file keeps its size.
    """
    if sessions.engine.dialect.name != "sqlite":
        return False
    connection = sessions.engine.raw_connection()
    try:
        cursor = connection.cursor()

        def value(pragma: str) -> int:
            return int(cursor.execute(f"PRAGMA {pragma}").fetchone()[0])

        if value("auto_vacuum") != 2:
            return False
        for _ in range(TRANSACTIONS):
            free = value("freelist_count") - pages_kept
            if free <= 0:
                return False
            # `execute` would take one step, which is one page.
            cursor.executescript(f"PRAGMA incremental_vacuum({min(free, PAGES_PER_TRANSACTION)})")
        return value("freelist_count") > pages_kept
    finally:
        connection.close()

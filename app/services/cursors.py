"""Where a page of a list ends: opaque to clients, stable while new rows come."""

from __future__ import annotations

import base64
import binascii
import re
from datetime import datetime

from app.errors import AppError

_ID = re.compile(r"[0-9a-f]{32,64}")
SKIPPED = re.compile(r"[0-9]{1,9}")
"""For rows whose numbers are nobody's business: how many of that time were shown."""


def to_cursor(created_at: datetime, row_id: str) -> str:
    """The cursor of the page after this row, which its time and its id, or what else the list takes, tell apart."""
    return base64.urlsafe_b64encode(f"{created_at.isoformat()} {row_id}".encode()).decode()


def from_cursor(cursor: str | None, row_ids: re.Pattern[str] = _ID) -> tuple[datetime, str] | None:
    """The row after which the page begins: when it was made, and its id; None: the first page.

    Args:
        row_ids: what an id looks like in this list.

    Raises:
        AppError: `request_invalid`.
    """
    if cursor is None:
        return None
    try:
        created_at, row_id = base64.urlsafe_b64decode(cursor.encode()).decode().split(" ")
        time = datetime.fromisoformat(created_at)
        if time.tzinfo is None or not row_ids.fullmatch(row_id):
            raise ValueError("not a time with a zone and an id")
    except (ValueError, binascii.Error) as error:
        raise AppError(
            "request_invalid",
            f"the cursor {cursor[:100]!r} is not valid; send next_cursor of the last page, or leave it out",
        ) from error
    return time, row_id

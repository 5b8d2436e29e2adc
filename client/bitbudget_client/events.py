"""Server-sent events of a job, out of the lines that come."""

from __future__ import annotations

import json

from bitbudget_client.documents import Event


class EventLines:
    """Makes events of lines, and remembers where a stream that broke goes on.

    Args:
        after: the number of the last event that is known; 0: none.
    """

    def __init__(self, after: int = 0) -> None:
        self._after = after
        self._fields: dict[str, str] = {}

    def begin(self) -> int:
        """The number of the last event; a new stream begins after it."""
        self._fields = {}
        return self._after

    def take(self, line: str) -> Event | None:
        """The event that this line ends, if it ends one."""
        if line:
            name, _, value = line.partition(":")  # a comment has no name
            self._fields[name] = value.removeprefix(" ")
            return None
        fields, self._fields = self._fields, {}
        if "data" not in fields:
            return None
        number = int(fields["id"]) if fields.get("id", "").isdecimal() else None
        self._after = self._after if number is None else number
        return Event(fields.get("event", "message"), json.loads(fields["data"]), number)

"""All open connections of one server: how many there may be, and which one goes when there are too many."""

from __future__ import annotations

import heapq
import ipaddress
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

SHARE_THAT_GOES = 32
"""One in so many makes room where there is none, and at least one."""


class Connection(Protocol):
    """An open connection, as far as the table needs to know it."""

    def waiting_since(self) -> tuple[bool, float] | None:
        """Whether a request is half-done, and since when its client owes something; None while the server works."""

    def evict(self) -> None:
        """End the connection now."""


@dataclass(frozen=True, slots=True)
class ConnectionLimit:
    """How many connections may be open, in total and from one address."""

    total: int
    per_address: int

    def __post_init__(self) -> None:
        if self.total < 1 or self.per_address < 1:
            raise ValueError(f"expected at least one connection, got {self.total} and {self.per_address} per address")


class ConnectionTable:
    """The open connections. Used by one event loop, so nothing is locked."""

    def __init__(self, limit: ConnectionLimit) -> None:
        self._limit = limit
        self._addresses: dict[Connection, str | None] = {}
        self._by_address: defaultdict[str | None, set[Connection]] = defaultdict(set)

    def __len__(self) -> int:
        return len(self._addresses)

    def enter(self, connection: Connection, address: str | None) -> bool:
        """Take the connection in, and end others for it where there are too many; False: there is no room.

        Those that wait for their client go first: one between two requests loses nothing, then the one whose client
        has owed something for longest. Whoever came just now and sends its request at once is therefore served, however
        many others hold half a request. Connections that the server works for are never ended.

        Args:
            address: of the client; None where there is none (a Unix socket), which then is not limited.
        """
        client = None if address is None else _client(address)
        here = self._by_address[client]
        crowded = client is not None and len(here) >= self._limit.per_address
        if (crowded or len(self) >= self._limit.total) and not self._make_room(here if crowded else self._addresses):
            return False
        self._addresses[connection] = client
        self._by_address[client].add(connection)
        return True

    def leave(self, connection: Connection) -> None:
        """Forget a connection that has ended; one that never entered, or left before, does no harm."""
        if connection not in self._addresses:
            return
        client = self._addresses.pop(connection)
        self._by_address[client].discard(connection)
        if not self._by_address[client]:
            del self._by_address[client]

    def _make_room(self, among: Iterable[Connection]) -> bool:
        all_of_them = list(among)
        waiting = [(since, held) for held in all_of_them if (since := held.waiting_since()) is not None]
        # Several at once: a crowd that comes back again and again would have all of them looked at for each.
        count = max(1, len(all_of_them) // SHARE_THAT_GOES)
        for _, victim in heapq.nsmallest(count, waiting, key=lambda entry: entry[0]):
            self.leave(victim)
            victim.evict()
        return bool(waiting)


def _client(address: str) -> str:
    """Who is behind an address: of IPv6 the network of 64 bits, since one machine may use all of its addresses."""
    parsed = ipaddress.ip_address(address.partition("%")[0])
    if parsed.version == 4:
        return str(parsed)
    return str(parsed.ipv4_mapped or ipaddress.ip_network((int(parsed) >> 64 << 64, 64)))

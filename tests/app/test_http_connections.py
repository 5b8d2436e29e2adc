"""Which connection goes when there are too many."""

from __future__ import annotations

import pytest

from app.http.connections import ConnectionLimit, ConnectionTable


class Held:
    """A connection that waits since a moment, between requests or within one; or that the server works for."""

    def __init__(self, since: float | None, half_done: bool = True) -> None:
        self._waiting = None if since is None else (half_done, since)
        self.evicted = False

    def waiting_since(self) -> tuple[bool, float] | None:
        return self._waiting

    def evict(self) -> None:
        self.evicted = True


def filled(table: ConnectionTable, *connections: Held, address: str | None = "10.0.0.1") -> None:
    for connection in connections:
        assert table.enter(connection, address)


def test_the_one_that_has_waited_for_longest_makes_room() -> None:
    table = ConnectionTable(ConnectionLimit(total=3, per_address=10))
    old, young, busy, new = Held(1.0), Held(2.0), Held(None), Held(3.0)
    filled(table, young, old, busy, new)
    assert [held.evicted for held in (old, young, busy, new)] == [True, False, False, False]
    assert len(table) == 3


def test_an_idle_connection_goes_before_half_a_request_however_old_that_is() -> None:
    table = ConnectionTable(ConnectionLimit(total=2, per_address=10))
    half, idle, new = Held(1.0), Held(5.0, half_done=False), Held(6.0)
    filled(table, half, idle, new)
    assert (half.evicted, idle.evicted) == (False, True)


def test_work_is_never_ended_for_a_newcomer() -> None:
    table = ConnectionTable(ConnectionLimit(total=2, per_address=10))
    busy = [Held(None), Held(None)]
    filled(table, *busy)
    assert not table.enter(Held(1.0), "10.0.0.2")
    assert not any(held.evicted for held in busy)
    table.leave(busy[0])
    table.leave(busy[0])
    assert table.enter(Held(1.0), "10.0.0.2")


def test_of_many_several_go_at_once_and_the_oldest_ones() -> None:
    table = ConnectionTable(ConnectionLimit(total=64, per_address=64))
    crowd = [Held(float(number)) for number in reversed(range(64))]
    filled(table, *crowd)
    assert table.enter(Held(64.0), "10.0.0.1")
    assert [held for held in crowd if held.evicted] == crowd[-2:]
    assert len(table) == 63


def test_one_client_takes_no_room_of_another() -> None:
    table = ConnectionTable(ConnectionLimit(total=10, per_address=2))
    other = Held(0.0)
    filled(table, other, address="10.0.0.2")
    crowd = [Held(float(number)) for number in range(1, 5)]
    filled(table, *crowd)
    assert [held.evicted for held in crowd] == [True, True, False, False]
    assert not other.evicted


@pytest.mark.parametrize(
    ("one", "another", "same"),
    [
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9", True),
        ("2001:db8:1:2::1", "2001:db8:1:3::1", False),
        ("::ffff:10.0.0.1", "10.0.0.1", True),
        ("::ffff:10.0.0.1", "::ffff:10.0.0.2", False),
        ("fe80::1%eth0", "fe80::2%eth0", True),
        (None, None, False),  # Unix sockets have no address, and no limit but the total
    ],
)
def test_who_counts_as_one_client(one: str | None, another: str | None, same: bool) -> None:
    table = ConnectionTable(ConnectionLimit(total=10, per_address=1))
    first = Held(1.0)
    filled(table, first, address=one)
    filled(table, Held(2.0), address=another)
    assert first.evicted is same


def test_a_limit_lets_somebody_in() -> None:
    with pytest.raises(ValueError, match="at least one connection, got 0 and 1 per address"):
        ConnectionLimit(0, 1)

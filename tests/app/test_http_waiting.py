"""Who is waited for, and how long: the arithmetic, without a clock."""

from __future__ import annotations

import pytest

from app.http.waiting import KEEP_ALIVE_SECONDS, Owed, Patience, Wait
from app.settings import Settings

PATIENCE = Patience(head_seconds=10, stall_seconds=30, least_rate=1000)


def waits(owed: Owed, rate: float, seconds: int) -> bool:
    """Whether a client that sends `rate` bytes each second from the moment 100 on is still waited for in the end."""
    wait = Wait(owed, 100.0, PATIENCE)
    for second in range(1, seconds + 1):
        if wait.end <= 100 + second:
            return False
        wait.moved(int(rate), 100.0 + second)
    return True


@pytest.mark.parametrize(
    ("rate", "seconds", "expected"),
    [
        (0, 29, True),
        (0, 30, False),
        (1000, 100_000, True),  # slow but moving: for as long as it takes
        (500, 58, True),  # half the rate uses up the patience in twice the time
        (500, 61, False),
        (1, 31, False),  # a byte now and then buys nothing
    ],
)
def test_a_body_is_waited_for_as_long_as_it_moves_fast_enough(rate: float, seconds: int, expected: bool) -> None:
    assert waits(Owed.BODY, rate, seconds) is expected


def test_nobody_saves_up_patience() -> None:
    wait = Wait(Owed.BODY, 100.0, PATIENCE)
    wait.moved(10**9, 101.0)
    assert wait.end == 131.0


def test_the_settings_say_how_long(tmp_path) -> None:
    patience = Patience.of(Settings(home=tmp_path, header_seconds=3, stall_seconds=4, min_bytes_per_second=5))
    assert [patience.seconds(owed) for owed in Owed] == [KEEP_ALIVE_SECONDS, 3, 4, 4, 4]
    assert patience.least_rate == 5

"""A client cannot fill the disk with our log."""

from __future__ import annotations

import logging

import pytest

from app.http.quiet import LINES_PER_PERIOD, MOST_KINDS, PERIOD_SECONDS, RepetitionLimit


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def texts(limit: RepetitionLimit, *messages: tuple[str, object]) -> list[str]:
    records = [logging.LogRecord("x", logging.INFO, "x", 1, text, (argument,), None) for text, argument in messages]
    return [record.getMessage() for record in records if limit.filter(record)]


def test_of_each_kind_some_lines_are_written_and_the_rest_is_counted(clock: Clock) -> None:
    limit = RepetitionLimit(clock)
    assert len(texts(limit, *[("refused %s", number) for number in range(1000)])) == LINES_PER_PERIOD
    assert texts(limit, ("broken %s", 1)) == ["broken 1"]
    clock.now = PERIOD_SECONDS
    assert texts(limit, ("refused %s", "a"), ("refused %s", "b")) == [
        f"refused a ({1000 - LINES_PER_PERIOD} more like this were left out)",
        "refused b",
    ]


def test_texts_that_differ_in_later_lines_are_of_one_kind(clock: Clock) -> None:
    limit = RepetitionLimit(clock)
    assert len(texts(limit, *[(f"failed %s\nsocket {number}", 1) for number in range(100)])) == LINES_PER_PERIOD


def test_kinds_do_not_pile_up(clock: Clock) -> None:
    limit = RepetitionLimit(clock)
    texts(limit, *[(f"{number} %s", 1) for number in range(3 * MOST_KINDS)])
    assert len(limit._kinds) <= MOST_KINDS + 1

"""How a batch of samples is shared out to cores."""

from __future__ import annotations

import threading

import pytest

from network.runtime import SideBySide


@pytest.mark.parametrize(
    ("batch", "threads", "fixed", "expected"),
    [(128, 2, None, (2, 1)), (1, 4, None, (1, 4)), (3, 16, None, (3, 5)), (8, 4, 8, (1, 4)), (5, 1, None, (1, 1))],
)
def test_every_core_has_samples_of_its_own_where_there_are_enough(batch, threads, fixed, expected):
    cores = SideBySide.of(batch, threads, fixed)
    assert (cores.runs, cores.threads) == expected


@pytest.mark.parametrize(("start", "stop"), [(0, 1), (0, 2), (3, 10), (0, 128), (256, 300)])
def test_parts_are_all_samples_in_order_and_none_is_empty(start, stop):
    parts = SideBySide(3, 1).parts(start, stop)
    assert [n for part in parts for n in range(part.start, part.stop)] == list(range(start, stop))
    lengths = [part.stop - part.start for part in parts]
    assert len(parts) <= 3
    assert min(lengths) >= 1
    assert max(lengths) - min(lengths) <= 1


def test_results_keep_their_order_and_work_runs_at_once():
    both = threading.Barrier(2, timeout=200)

    def work(item):
        both.wait()  # nobody passes alone
        return -item

    assert SideBySide(2, 1).map(work, [1, 2, 3, 4]) == [-1, -2, -3, -4]


def test_what_a_part_raises_comes_out():
    with pytest.raises(ZeroDivisionError):
        SideBySide(2, 1).map(lambda item: 1 // item, [1, 0])

"""Groups in tiles: every group is visited once, and neither threads nor neighbours change what is found for it."""

from __future__ import annotations

import os

import numpy as np
import pytest
from numpy.typing import NDArray

from quantization.formats import Granularity, IntegerFormat
from quantization.rounding.nearest import round_nearest
from quantization.rounding.ranges import optimal_scales
from quantization.rounding.tiles import TILE, Floats, Room, by_tiles, cores

BLOCK = IntegerFormat(4, Granularity.BLOCK, True, 16)


def ends(groups: Floats, axis: int, room: Room) -> Floats:
    [copy] = room.arrays(1, groups.shape)
    copy[...] = groups
    return np.stack([copy.min(axis=axis), copy.max(axis=axis)])


@pytest.mark.parametrize("threads", ["1", "3"])
@pytest.mark.parametrize(
    "shape",
    [(1, 5, 1), (3, 40, 7), (30_000, 16, 1), (7, 16, 9000), (500, 16, 70), (3, TILE + 1, 1), (40, 9000, 1), (0, 4, 1)],
)
def test_every_group_is_visited(shape: tuple[int, int, int], threads: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", threads)
    shares = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    found = by_tiles(shares, ends, 2)
    assert np.array_equal(found, [shares.min(axis=1), shares.max(axis=1)])


def test_a_weight_whose_axes_are_not_in_order() -> None:
    shares = np.random.default_rng(1).standard_normal((1000, 300), dtype=np.float32).T[:, :, None]
    assert np.array_equal(by_tiles(shares, ends, 2)[0], shares.min(axis=1))


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("format_", [BLOCK, IntegerFormat(3), IntegerFormat(8)])
def test_threads_change_nothing(format_: IntegerFormat, axis: int, monkeypatch: pytest.MonkeyPatch) -> None:
    weight = np.random.default_rng(2).standard_normal((512, 1040), dtype=np.float32)
    found = []
    for threads in ("1", "2", "5"):
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
        found.append(round_nearest(weight, format_, axis))
    for other in found[1:]:
        assert np.array_equal(other.scale, found[0].scale)
        assert np.array_equal(other.codes, found[0].codes)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_neighbours_change_nothing(bits: int) -> None:
    """The last tile has one group."""
    weight = np.random.default_rng(3).standard_normal((TILE // 16 + 1, 16), dtype=np.float32)
    alone, together = (optimal_scales(w, IntegerFormat(bits), 0) for w in (weight[-17:], weight))
    assert np.array_equal(alone, together[-17:])


def test_what_a_thread_raises_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    weight = np.ones((TILE // 4, 16, 1), dtype=np.float32)
    weight[-1, 3] = np.nan

    def fit(groups: Floats, axis: int, _room: Room) -> Floats:
        if np.isnan(groups).any():
            raise ValueError("not a number")
        return groups.max(axis=axis)

    with pytest.raises(ValueError, match="not a number"):
        by_tiles(weight, fit, 1)


@pytest.mark.parametrize(
    ("told", "expected"), [("3", 3), ("4,2", 4), ("0", 1), ("", None), ("many", None), (None, None)]
)
def test_threads_are_those_of_other_libraries(
    told: str | None, expected: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if told is None:
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    else:
        monkeypatch.setenv("OMP_NUM_THREADS", told)
    assert cores() == (len(os.sched_getaffinity(0)) if expected is None else expected)


def test_room_is_used_again() -> None:
    room = Room()
    first: NDArray[np.float32] = room.arrays(2, (3, 4))
    assert first.shape == (2, 3, 4)
    assert np.shares_memory(first, room.arrays(1, (5,)))
    assert room.arrays(1, (100,)).shape == (1, 100)

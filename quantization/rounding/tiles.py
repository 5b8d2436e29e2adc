"""Work on weights that share scales, in tiles that a core's cache holds, on several cores at once."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

TILE = 1 << 17  # elements: two float32 arrays of this size stay in a core's second-level cache

T = TypeVar("T")
Floats = NDArray[np.float32]
Part = tuple[slice, slice]  # of the outer and the inner axis


class Room:
    """Memory that one thread uses for tile after tile: touching new memory takes as long as ten operations on it."""

    def __init__(self) -> None:
        self._numbers = np.empty(0, dtype=np.float32)

    def arrays(self, count: int, shape: tuple[int, ...]) -> Floats:
        """`[count, *shape]`, not initialised, in the place of the arrays before."""
        size = count * math.prod(shape)
        if size > self._numbers.size:
            self._numbers = np.empty(size, dtype=np.float32)
        return self._numbers[:size].reshape(count, *shape)


def by_tiles(shares: Floats, fit: Callable[[Floats, int, Room], Floats], results: int) -> Floats:
    """Numbers that `fit` finds for each group of weights.

    Args:
        shares: `[outer, elements, inner]`: the group of `i` and `j` is `[i, :, j]`.
        fit: takes contiguous groups, the axis of their elements (0 or 1) and a room, and gives
            `[results, groups]`, or `[groups]` where there is one result. It is called from several threads at once,
            each with a room of its own.

    Returns:
        `[results, outer, inner]`, the same whatever the number of threads: tiles know nothing of each other.
    """
    outer, elements, inner = shares.shape
    numbers = np.empty((results, outer, inner), dtype=np.float32)
    # inner loops run over the longer side: short groups lie side by side
    axis = 0 if outer * inner > elements else 1

    def visit(part: Part, room: Room) -> None:
        some = shares[part[0], :, part[1]]
        groups = some.swapaxes(0, 1).reshape(elements, -1) if axis == 0 else some.swapaxes(1, 2).reshape(-1, elements)
        place = numbers[:, part[0], part[1]]
        place[...] = fit(np.ascontiguousarray(groups), axis, room).reshape(place.shape)

    on_cores(visit, list(_tiles(outer, inner, max(1, TILE // max(elements, 1)))))
    return numbers


def parts(rows: int, elements: int, most: int) -> Iterator[slice]:
    """Slices of `rows` rows of so many `elements` each, with at most so many elements together, or one row."""
    step = max(1, most // max(elements, 1))
    for start in range(0, rows, step):
        yield slice(start, start + step)


def on_cores(visit: Callable[[T, Room], None], parts: Sequence[T]) -> None:
    """Visit every part, several at once."""
    left = iter(parts)  # a sequence's iterator may be shared by threads: each takes the next part

    def work() -> None:
        room = Room()
        for part in left:
            visit(part, room)

    threads = min(cores(), len(parts))
    if threads <= 1:
        work()
        return
    with ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(work) for _ in range(threads)]:
            done.result()


def cores() -> int:
    """Threads that may work at once: `OMP_NUM_THREADS`, which bounds those of other libraries too, else every core
    that this process may run on."""
    configured = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    return max(1, int(configured)) if configured.isdecimal() else len(os.sched_getaffinity(0))


def _tiles(outer: int, inner: int, groups: int) -> Iterator[Part]:
    """Of at most so many groups each."""
    wide = _slices(inner, groups)
    high = max(1, groups // max(inner, 1))
    for rows in _slices(outer, high):
        for columns in wide:
            yield rows, columns


def _slices(length: int, most: int) -> list[slice]:
    """Of about equal length: numpy sums a tile of one group in another order."""
    count = math.ceil(length / most)
    return [slice(length * place // count, length * (place + 1) // count) for place in range(count)]

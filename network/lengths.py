"""Samples at other lengths, for axes that a file leaves free: a proof at one length would let that length be frozen.

All free axes twice as long, and half as long, which keeps what one length has to be of others (a mask as long as cache
and tokens together); and each symbol alone twice as long. Values are those of the sample, repeated or cut off, so that
indices stay what the network takes. Not every file takes every length (positions in a table, crops of a fixed size):
what the uploaded file itself fails on is for the proof to leave out.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from network.proof import Feed

MOST_ELEMENTS = 1 << 20
"""Of all inputs together: larger samples are proved at shorter lengths alone."""
MOST_SYMBOLS = 4
"""That are looked at one by one."""


def at_other_lengths(feed: Feed, free: Mapping[str, Mapping[int, str]]) -> list[Feed]:
    """The arrays of `feed` with other lengths, each an edge.

    Args:
        free: by graph input its free axes besides the batch axis, with their symbols (`network.interface.free_axes`).
    """
    feeds: list[Feed] = []
    shapes = [_shapes(feed)]
    for said, change, symbols in _ways({symbol: None for axes in free.values() for symbol in axes.values()}):
        arrays = {
            name: _changed(array, {a for a, symbol in free.get(name, {}).items() if symbol in symbols}, change)
            for name, array in feed.arrays.items()
        }
        other = Feed(f"{feed.name} at {said}", arrays, edge=True)
        if _shapes(other) not in shapes and sum(array.size for array in arrays.values()) <= MOST_ELEMENTS:
            shapes.append(_shapes(other))
            feeds.append(other)
    return feeds


def _ways(symbols: Mapping[str, None]) -> Iterator[tuple[str, Callable[[int], int], Collection[str]]]:
    yield "twice its lengths", lambda length: 2 * length, symbols
    yield "half its lengths", lambda length: (length + 1) // 2, symbols
    for symbol in list(symbols)[:MOST_SYMBOLS]:
        # an empty cache is filled
        yield f"twice the length {symbol!r}", lambda length: 2 * length or 2, (symbol,)


def _changed(array: NDArray[np.generic], axes: Collection[int], change: Callable[[int], int]) -> NDArray[np.generic]:
    for axis in axes:
        length, shape = array.shape[axis], list(array.shape)
        shape[axis] = change(length)
        if length:
            array = np.take(array, np.arange(shape[axis]) % length, axis=axis)
        else:
            array = np.zeros(shape, array.dtype)
    return array


def _shapes(feed: Feed) -> dict[str, tuple[int, ...]]:
    return {name: array.shape for name, array in feed.arrays.items()}

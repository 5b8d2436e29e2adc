"""Arrays of different lengths as one: what lacks is filled up with what no network gives."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from evaluation.metrics.measurement import Output


def filled_up(arrays: Sequence[Output], shape: Sequence[int]) -> Output:
    """`[len(arrays), *shape]`: each array with what lacks to the shape filled up with NaN, -1 or 0, as its type has."""
    stacked = np.full((len(arrays), *map(int, shape)), _padding(arrays[0].dtype), arrays[0].dtype)
    for index, array in enumerate(arrays):
        place: tuple[int | slice, ...] = (index, *(slice(length) for length in array.shape))
        stacked[place] = array
    return stacked


def aligned(before: Output, after: Output) -> tuple[Output, Output]:
    """Two outputs of the same samples in one shape; as they are where their numbers of axes differ."""
    if before.shape == after.shape or before.ndim != after.ndim or len(before) != len(after):
        return before, after
    shape = [max(lengths) for lengths in zip(before.shape[1:], after.shape[1:], strict=True)]
    return filled_up(list(before), shape), filled_up(list(after), shape)


def _padding(dtype: np.dtype[np.generic]) -> float:
    return {"f": np.nan, "i": -1}.get(dtype.kind, 0)

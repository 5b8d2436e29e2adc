"""Tables for `quantization.storage.codebooks`: the centers of weighted k-means, and which weights are kept beside them.

Kim et al., "SqueezeLLM: Dense-and-Sparse Quantization", arXiv 2306.07629. A mass in k-means is how much the loss minds
an error of that number.

Differences from the paper:

1. k-means is solved, not sought from random starts (`quantization.rounding.kmeans`).
2. The paper keeps the largest weights and the most sensitive ones in float. Here a weight is kept for what keeping it
   saves: first those farthest from their channel's mean, and then, by turns, tables are fitted to the others, and the
   worst under these tables are kept. Each half of a step is the best answer to the other. (Begun with the worst under
   tables for all weights it ended at up to 1.4 times the error, on none of 24 kinds of random rows at 0.1 % less.)
3. How many are kept follows from the format and the weight's size alone, so that a file's size is known without data.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from network.graph import ChannelAxis
from quantization.formats import CodebookFormat
from quantization.rounding.kmeans import centers
from quantization.rounding.ranges import finite_float32
from quantization.rounding.tiles import Floats, parts
from quantization.storage.codebooks import CodebookWeight, outlier_count, table_numbers, table_shape

_MOST_ROUNDS = 3
_LEAST_GAIN = 3e-3  # of the error, for another round
_AT_ONCE = 1 << 18  # weights that are worked on together
_LOWEST_POWER = -100
LARGEST = float(np.finfo(np.float16).max)

Element = TypeVar("Element", bound=np.generic)


def codebook(
    weight: Floats, format_: CodebookFormat, channel_axis: ChannelAxis, importance: Floats | None = None
) -> CodebookWeight:
    """`weight` at the tables of least `sum importance * error**2`, each value at its nearest place.

    Args:
        weight: finite float32, of a shape that folds.
        channel_axis: axis of the output channels.
        importance: finite, at least 0, of the weight's shape: such as the diagonal of a Hessian or Fisher matrix.
            Where a whole channel has none, all its values have the same; None for the same everywhere.

    Raises:
        ValueError: the weight or the importance is not as described.
    """
    factor = power_of_two(weight)
    scaled = weight / factor
    fitted = fit_tables(scaled, format_, channel_axis, importance)
    return fitted.weight(format_, fitted.tables, fitted.nearest(), scaled, factor)


def power_of_two(weight: Floats) -> Floats:
    """The power, shape `()`, that brings the largest magnitude to at least 1 and below 2, where float16 has its digits;
    1 for zeros, and no number that float32 rounds off."""
    largest = np.max(np.abs(weight), initial=0.0)
    if not np.isfinite(largest) or largest == 0:
        return np.array(1, dtype=np.float32)
    return np.array(np.ldexp(1.0, max(int(np.frexp(largest)[1]) - 1, _LOWEST_POWER)), dtype=np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class FittedTables:
    """Tables for a weight, and which of its values they need not serve.

    `rows` `[channels, reduced]` is the weight by channels, `tables` `[channels, 2**bits]` ascends and holds float16
    numbers, `kept` is flat over the rows, in no order. `folded` is the weight's shape `[outer, reduced, inner]`.
    """

    rows: Floats
    tables: Floats
    kept: NDArray[np.intp]
    shape: tuple[int, ...]
    folded: tuple[int, int, int]

    def channels(self) -> NDArray[np.int32]:
        """For every weight, in the weight's shape, which table it takes."""
        return table_numbers(self.folded, self.shape)

    def kept_mask(self) -> NDArray[np.bool_]:
        """What is kept, in the weight's shape."""
        mask = np.zeros(self.rows.shape, dtype=np.bool_)
        mask.flat[self.kept] = True
        return self._unfold(mask)

    def nearest(self) -> NDArray[np.uint8]:
        """For every weight, in the weight's shape, its place in the ascending table."""
        return self._unfold(nearest_places(self.rows, self.tables))

    def weight(
        self, format_: CodebookFormat, tables: Floats, places: NDArray[np.uint8], values: Floats, factor: Floats
    ) -> CodebookWeight:
        """The weight at `places` in `tables` `[channels, 2**bits]`, with those of `values` that are kept, all times
        `factor`; `places` and `values` in the weight's shape."""
        half = 1 << (format_.bits - 1)
        positions = np.flatnonzero(self.kept_mask()).astype(np.int32)
        return CodebookWeight(
            format_,
            places.astype(np.int8) - np.int8(half),
            folded_tables(tables, self.folded),
            factor,
            positions,
            values.reshape(-1)[positions] * factor,
        )

    def _unfold(self, rows: NDArray[Element]) -> NDArray[Element]:
        outer, reduced, inner = self.folded
        return np.ascontiguousarray(np.moveaxis(rows.reshape(outer, inner, reduced), 2, 1)).reshape(self.shape)


def fit_tables(
    weight: Floats, format_: CodebookFormat, channel_axis: ChannelAxis, importance: Floats | None = None
) -> FittedTables:
    """Tables and outliers as `codebook` takes them, before any value is rounded.

    Raises:
        ValueError: as `codebook`.
    """
    outer, levels, inner = table_shape(format_, weight.shape, channel_axis)
    folded = outer, weight.size // max(outer * inner, 1), inner
    rows = _by_channel(finite_float32(weight), folded)
    masses = None
    if importance is not None:
        if importance.shape != weight.shape or not (np.isfinite(importance).all() and (importance >= 0).all()):
            raise ValueError(f"importance must be finite, at least 0 and of shape {weight.shape}")
        masses = _by_channel(np.asarray(importance, dtype=np.float32), folded)
    count = outlier_count(format_, weight.size)
    if not count:
        return FittedTables(rows, _tables(rows, masses, levels), np.empty(0, dtype=np.intp), weight.shape, folded)
    tables, kept = _with_outliers(rows, masses, levels, count)
    return FittedTables(rows, tables, kept, weight.shape, folded)


def folded_tables(tables: NDArray[np.floating], folded: tuple[int, int, int]) -> NDArray[np.float16]:
    """Ascending tables `[channels, 2**bits]` as `CodebookWeight.table` of a weight folded so: code 0 first."""
    outer, _, inner = folded
    ordered = np.roll(tables.astype(np.float16), tables.shape[1] // 2, axis=1)
    return np.ascontiguousarray(np.moveaxis(ordered.reshape(outer, inner, -1), 2, 1))


def nearest_places(rows: NDArray[np.floating], tables: NDArray[np.floating]) -> NDArray[np.uint8]:
    """For every value of `rows` `[channels, n]` the place of the nearest in its ascending table; of two the lower."""
    places = np.zeros(rows.shape, dtype=np.uint8)
    middles = (tables[:, 1:] + tables[:, :-1]) / 2
    for part in parts(len(rows), rows.shape[1], _AT_ONCE):
        for middle in middles[part].T:
            places[part] += rows[part] > middle[:, None]
    return places


def _by_channel(weight: Floats, folded: tuple[int, int, int]) -> Floats:
    outer, reduced, inner = folded
    return np.ascontiguousarray(np.moveaxis(weight.reshape(folded), 1, 2)).reshape(outer * inner, reduced)


def _tables(rows: Floats, masses: Floats | None, levels: int) -> Floats:
    """The best tables `[channels, levels]`, ascending, at float16 numbers."""
    return centers(rows.clip(-LARGEST, LARGEST), masses, levels).astype(np.float16).astype(np.float32)


def _with_outliers(rows: Floats, masses: Floats | None, levels: int, count: int) -> tuple[Floats, NDArray[np.intp]]:
    """Tables, and the `count` values that they need not serve (point 2 of the module's docstring)."""
    kept, _ = _worst(rows, masses, count, lambda part: rows[part].mean(axis=1, keepdims=True))
    tables = np.empty((len(rows), levels), dtype=np.float32)

    def served(part: slice) -> Floats:
        places = nearest_places(rows[part], tables[part]).astype(np.intp)
        return np.take_along_axis(tables[part], places, axis=1)

    error = math.inf
    for _ in range(_MOST_ROUNDS):
        for part in parts(len(rows), rows.shape[1], _AT_ONCE):
            tables[part] = _tables(rows[part], _others(rows, masses, kept, part), levels)
        before = error
        kept, error = _worst(rows, masses, count, served)
        if before - error <= _LEAST_GAIN * error:
            break
    return tables, kept


def _others(rows: Floats, masses: Floats | None, kept: NDArray[np.intp], part: slice) -> Floats:
    """The masses of some rows, 0 for what is `kept`."""
    others = np.ones_like(rows[part]) if masses is None else masses[part].copy()
    places = kept - part.start * rows.shape[1]
    others.flat[places[(places >= 0) & (places < others.size)]] = 0
    return others


def _worst(
    rows: Floats, masses: Floats | None, count: int, served: Callable[[slice], Floats]
) -> tuple[NDArray[np.intp], float]:
    """Flat places of the `count` values with the largest `masses * (rows - served)**2`, and the sum of the others."""
    kept, largest, total = np.empty(0, dtype=np.intp), np.empty(0, dtype=np.float32), 0.0
    for part in parts(len(rows), rows.shape[1], _AT_ONCE):
        errors = np.square(rows[part] - served(part))
        if masses is not None:
            errors *= masses[part]
        total += float(errors.sum(dtype=np.float64))
        own = _largest(errors.ravel(), count)
        kept = np.concatenate([kept, part.start * rows.shape[1] + own])
        largest = np.concatenate([largest, errors.flat[own]])
        best = _largest(largest, count)
        kept, largest = kept[best], largest[best]
    return kept, total - float(largest.sum(dtype=np.float64))


def _largest(values: Floats, count: int) -> NDArray[np.intp]:
    """Places of the `count` largest, or of all."""
    first = max(values.size - count, 0)
    return np.argpartition(values, first)[first:]

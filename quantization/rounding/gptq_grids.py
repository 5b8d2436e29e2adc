"""GPTQ to any values: codebooks, power grids, and weights that are kept beside them.

    prepared = prepare(weight, statistics)          # quantization.rounding.gptq; once for all formats of the weight
    gptq_to_grids(prepared, [table, ...], channel_axis, [mask or None, ...])

`quantization.rounding.gptq` says how errors are made up for; only the rounding of a single value differs. A value's
place in a table of up to 16 values is the number of midpoints below it, all compared at once; in a longer one it is
found by bisection, of all lanes at once.

A weight that is kept beside the table costs nothing whatever its value is, so it takes the target at its turn: all
errors made so far are made up for there [ours].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quantization.formats import IntegerFormat
from quantization.granularity import scale_shape
from quantization.rounding.gptq import Prepared, ratios
from quantization.rounding.gptq_columns import GREEDY_MAY_LOSE, Columns, Rounding, chunks

MOST_LEVELS = 256
_COMPARE_ALL = 16  # levels

Floats = NDArray[np.float32]
Codes = NDArray[np.uint8]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class GridResult:
    """A weight rounded to tables of values.

    `codes` (places in the tables; any where weights are kept) and float32 `values` have the weight's shape; `values`
    holds `table[code]`, and what the kept weights are now. `factors` `[channels]` is by how much the table of each
    channel would best be multiplied for these codes; None where weights are kept.
    """

    codes: Codes
    values: Floats
    factors: Floats | None


def gptq_to_grids(
    prepared: Prepared, tables: Sequence[Floats], channel_axis: int, kept: Sequence[Mask | None] | None = None
) -> list[GridResult]:
    """The target of `prepared` rounded to each of `tables`, one after the other; they share its factor.

    Args:
        tables: each finite float32 `[channels, levels]`, 2 to 256 levels, no row falling.
        channel_axis: axis of the output channels.
        kept: for each table which weights stay beside it, in the weight's shape, or None.

    Raises:
        ValueError: tables or masks outside of this, or a channel axis along which the layer sums.
    """
    masks = [None] * len(tables) if kept is None else kept
    return [_round(prepared, table, channel_axis, mask) for table, mask in zip(tables, masks, strict=True)]


def _round(prepared: Prepared, table: Floats, channel_axis: int, kept: Mask | None) -> GridResult:
    shape, (groups, rows, reduced) = prepared.target.shape, prepared.matrix.shape
    _check(table, shape, channel_axis, kept)
    owner = prepared.owner(scale_shape(IntegerFormat(8), shape, channel_axis))
    mask = None if kept is None else prepared.reduction.to_matrix(kept)
    codes = np.empty((groups, rows, reduced), dtype=np.uint8)
    values = np.empty((groups, rows, reduced), dtype=np.float32)
    moments = np.empty((2, groups, rows))
    for chunk in chunks(prepared.matrix.shape, 1):
        weights = prepared.factor.sort(prepared.matrix[:, chunk])
        excluded = None if mask is None else prepared.factor.sort(mask[:, chunk])
        columns = Columns.of(prepared.factor, weights, GridRounding(table[owner[:, chunk]], reduced), excluded)
        columns.round()
        if reduced <= GREEDY_MAY_LOSE:
            columns.keep_nearest_where_better()
        codes[:, chunk] = prepared.factor.unsort(columns.rounding.codes)
        values[:, chunk] = prepared.factor.unsort(columns.weights + columns.deltas)
        if mask is None:
            moments[:, :, chunk] = columns.moments(1, [0])[:, :, 0]
    exact = np.take_along_axis(table[owner], codes.astype(np.intp), axis=2)
    np.copyto(values, exact, where=True if mask is None else ~mask)
    factors = None if mask is not None else ratios(moments, owner, len(table))
    return GridResult(
        prepared.reduction.from_matrix(codes, shape), prepared.reduction.from_matrix(values, shape), factors
    )


class GridRounding(Rounding):
    """The nearest value of a table for each lane, `[groups, lanes, levels]`; of two as near the lower one."""

    def __init__(self, tables: Floats, reduced: int) -> None:
        groups, lanes, levels = tables.shape
        middles = (tables[:, :, 1:].astype(np.float64) + tables[:, :, :-1]) / 2
        self._codes = np.empty((groups, reduced, lanes), dtype=np.uint8)
        self._few = levels <= _COMPARE_ALL
        self._place = np.empty((groups, lanes), dtype=np.intp)
        self._lane = np.arange(groups * lanes).reshape(groups, lanes)
        if self._few:
            self._values = np.ascontiguousarray(tables.transpose(2, 0, 1)).ravel()
            self._middles = np.ascontiguousarray(middles.transpose(2, 0, 1), dtype=np.float32)
            self._above = np.empty(self._middles.shape, dtype=np.bool_)
            self._count = np.empty((groups, lanes), dtype=np.uint8)
            return
        self._size = 1 << (levels - 1).bit_length()
        padded = np.full((groups, lanes, self._size), np.inf, dtype=np.float32)
        padded[:, :, : levels - 1] = middles
        self._middles = padded.ravel()
        padded = np.zeros_like(padded)
        padded[:, :, :levels] = tables
        self._values = padded.ravel()
        self._lane *= self._size
        self._probe = np.empty((groups, lanes), dtype=np.float32)
        self._step = np.empty((groups, lanes), dtype=np.bool_)
        self._next = np.empty((groups, lanes), dtype=np.intp)

    def column(self, column: int, values: Floats, rounded: Floats) -> None:
        self._codes[:, column] = self._round(values, rounded)

    def nearest(self, weights: Floats) -> tuple[NDArray[np.integer], Floats]:
        codes, values = np.empty_like(self._codes), np.empty_like(weights)
        rounded = np.empty_like(weights[:, 0])
        for column in range(weights.shape[1]):
            codes[:, column] = self._round(weights[:, column], rounded)
            values[:, column] = rounded
        return codes, values

    @property
    def codes(self) -> NDArray[np.integer]:
        return self._codes

    def _round(self, values: Floats, rounded: Floats) -> NDArray[np.integer]:
        """Codes of `values` `[groups, lanes]`, which stand for `rounded`."""
        place = self._place
        if self._few:
            np.greater(values, self._middles, out=self._above)
            np.add.reduce(self._above.view(np.uint8), axis=0, out=self._count)
            np.multiply(self._count, place.size, out=place, dtype=np.intp)
            place += self._lane
            self._values.take(place, out=rounded, mode="clip")  # the mode that does not buffer
            return self._count
        np.copyto(place, self._lane)
        step = self._size // 2
        while step:
            np.add(place, step - 1, out=self._next)
            self._middles.take(self._next, out=self._probe, mode="clip")
            np.greater(values, self._probe, out=self._step)
            np.multiply(self._step, step, out=self._next, dtype=np.intp)
            place += self._next
            step //= 2
        self._values.take(place, out=rounded, mode="clip")
        place -= self._lane
        return place


def _check(table: Floats, shape: tuple[int, ...], channel_axis: int, kept: Mask | None) -> None:
    channels = shape[channel_axis]
    if table.dtype != np.float32 or table.ndim != 2 or len(table) != channels:
        raise ValueError(f"a table must be float32 [{channels}, levels], got {table.dtype} {list(table.shape)}")
    if not 2 <= table.shape[1] <= MOST_LEVELS:
        raise ValueError(f"a table has 2 to {MOST_LEVELS} levels, got {table.shape[1]}")
    if not np.isfinite(table).all() or (table[:, 1:] < table[:, :-1]).any():
        raise ValueError("the values of a table must be finite, in rising order for every channel")
    if kept is not None and (kept.dtype != np.bool_ or kept.shape != shape):
        raise ValueError(f"what is kept must be a mask of shape {shape}, got {kept.dtype} {kept.shape}")

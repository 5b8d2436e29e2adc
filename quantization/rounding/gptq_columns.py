"""The column loop of GPTQ, for any rounding of single values.

Arrays are `[groups, reduced, lanes]`, columns in the order of `gptq_factor.Factor`. A lane is one row of the weight in
one format; lanes run over formats, then rows.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quantization.rounding.gptq_factor import Factor

_COLUMNS_AT_ONCE = 32  # below this many columns a matrix product per halving costs more than it saves
GREEDY_MAY_LOSE = 256  # columns; beyond, comparing with the nearest codes costs much and gains nothing
_CHUNK = 1 << 22  # elements of [reduced, formats, rows] that are worked on at once

Floats = NDArray[np.float32]


def chunks(shape: tuple[int, int, int], formats: int) -> Iterator[slice]:
    """Rows of a matrix `[groups, rows, reduced]` that are worked on together in so many formats."""
    groups, rows, reduced = shape
    step = max(1, _CHUNK // max(groups * reduced * formats, 1))
    for first in range(0, rows, step):
        yield slice(first, min(first + step, rows))


class Rounding(ABC):
    """How the values of some lanes are rounded; writes the codes into an array of its own."""

    @abstractmethod
    def column(self, column: int, values: Floats, rounded: Floats) -> None:
        """Round `values` `[groups, lanes]` of one column, write what their codes stand for into `rounded`."""

    @abstractmethod
    def nearest(self, weights: Floats) -> tuple[NDArray[np.integer], Floats]:
        """Codes of `weights` `[groups, reduced, lanes]`, each rounded by itself, and what they stand for."""

    @property
    @abstractmethod
    def codes(self) -> NDArray[np.integer]:
        """`[groups, reduced, lanes]`, of the columns rounded so far."""


class IntegerRounding(Rounding):
    """`scale * clip(round(value / scale))` with bounds: codes less their zero point, to which `zero_point` is added.

    Scales, bounds and zero points are `[groups, reduced or 1, lanes]`; `zero_point` is None where all are 0.
    """

    def __init__(
        self, reduced: int, scales: Floats, lowest: Floats, highest: Floats, zero_point: Floats | None
    ) -> None:
        groups, own, lanes = scales.shape
        self._scales, self._lowest, self._highest, self._zero_point = scales, lowest, highest, zero_point
        self._shared = self._of(0) if own == 1 else None
        self._codes = np.empty((groups, reduced, lanes), dtype=np.int8)
        self._code = np.empty((groups, lanes), dtype=np.float32)

    def column(self, column: int, values: Floats, rounded: Floats) -> None:
        scale, lowest, highest = self._shared or self._of(column)
        np.divide(values, scale, out=rounded)
        np.rint(rounded, out=rounded)
        np.maximum(rounded, lowest, out=rounded)
        np.minimum(rounded, highest, out=rounded)
        if self._zero_point is None:
            self._codes[:, column] = rounded
        else:
            zero_point = self._zero_point[:, 0 if self._shared else column]
            self._codes[:, column] = np.add(rounded, zero_point, out=self._code)
        rounded *= scale

    def _of(self, column: int) -> tuple[Floats, Floats, Floats]:
        """Scales and bounds `[groups, lanes]` of one column."""
        return self._scales[:, column], self._lowest[:, column], self._highest[:, column]

    def nearest(self, weights: Floats) -> tuple[NDArray[np.integer], Floats]:
        values = np.rint(weights / self._scales)
        np.minimum(np.maximum(values, self._lowest, out=values), self._highest, out=values)
        codes = values if self._zero_point is None else values + self._zero_point
        return codes.astype(np.int8), values * self._scales

    @property
    def codes(self) -> NDArray[np.integer]:
        return self._codes


@dataclass(frozen=True, slots=True, eq=False)
class Columns:
    """The column loop's arrays.

    `open` holds, for a column still open, its target with the updates so far, and for a rounded one its rounding error
    at its turn, `value - target`; in the end that is `upper @ deltas`. `deltas` is `value - weight`, the value being
    what the code stands for. Where `excluded`, the value is the target at its turn.
    """

    factor: Factor
    weights: Floats
    rounding: Rounding
    open: Floats
    deltas: Floats
    excluded: NDArray[np.bool_] | None = None

    @classmethod
    def of(
        cls, factor: Factor, weights: Floats, rounding: Rounding, excluded: NDArray[np.bool_] | None = None
    ) -> Columns:
        """With no column rounded yet."""
        return cls(factor, weights, rounding, weights.copy(), np.empty_like(weights), excluded)

    def round(self) -> None:
        """Round all columns, the last first."""
        self._round(0, self.weights.shape[1])

    def _round(self, start: int, stop: int) -> None:
        """Round columns `start..stop`, the last first; those from `stop` on have been counted in already."""
        if stop - start <= _COLUMNS_AT_ONCE:
            self._round_one_by_one(start, stop)
            return
        middle = (start + stop) // 2
        self._round(middle, stop)
        self.open[:, start:middle] -= self.factor.upper[:, start:middle, middle:stop] @ self.deltas[:, middle:stop]
        self._round(start, middle)

    def _round_one_by_one(self, start: int, stop: int) -> None:
        """The same; views are cut and errors found for all columns at once where that changes nothing: with a few
        microseconds of work per column, every call counts."""
        part = slice(start, stop)
        upper, targets = self.factor.upper[:, part, part], self.open[:, part]
        weights, deltas = self.weights[:, part], self.deltas[:, part]
        update, values = np.empty_like(targets[:, :1]), np.empty_like(targets.swapaxes(0, 1), order="C")
        for column in range(stop - start - 1, -1, -1):
            target, rounded = targets[:, column], values[column]
            if column + 1 < stop - start:
                np.matmul(upper[:, column : column + 1, column + 1 :], deltas[:, column + 1 :], out=update)
                target -= update[:, 0]
            self.rounding.column(start + column, target, rounded)
            if self.excluded is not None:
                np.copyto(rounded, target, where=self.excluded[:, start + column])
            np.subtract(rounded, weights[:, column], out=deltas[:, column])
        np.subtract(values.swapaxes(0, 1), targets, out=targets)

    def keep_nearest_where_better(self) -> None:
        """Give a lane its nearest codes where they have the smaller error `|L' d|**2`."""
        codes, values = self.rounding.nearest(self.weights)
        if self.excluded is not None:
            np.copyto(values, self.weights, where=self.excluded)
        values -= self.weights
        errors = self.factor.upper @ values
        squares = np.square(self.factor.diagonal)[:, :, None]
        better = ((np.square(errors) * squares).sum(axis=1) < (np.square(self.open) * squares).sum(axis=1))[:, None]
        np.copyto(self.open, errors, where=better)
        np.copyto(self.deltas, values, where=better)
        np.copyto(self.rounding.codes, codes, where=better)

    def moments(self, formats: int, wanted: Sequence[int]) -> NDArray[np.float64]:
        """`<w, v>_H` and `<v, v>_H` of weights w and values v, `[2, groups, formats, rows]`; 1 for those not `wanted`.

        With `E = upper @ deltas` and `A = upper @ w`, `upper @ v` is `E + A` [ours].
        """
        groups, reduced, lanes = self.weights.shape
        rows = lanes // formats
        found = np.ones((2, groups, formats, rows))
        if not wanted:
            return found
        own = self.factor.times(self.weights[:, :, :rows])  # the weights are the same in all formats
        diagonal = self.factor.diagonal[:, :, None]
        own *= diagonal
        errors = self.open.reshape(groups, reduced, formats, rows)
        for index in wanted:
            whole = errors[:, :, index] * diagonal
            whole += own
            found[0, :, index] = np.einsum("gkr,gkr->gr", whole, own)
            found[1, :, index] = np.einsum("gkr,gkr->gr", whole, whole)
        return found

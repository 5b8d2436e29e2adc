"""The column loop of GPTQ, for any rounding of single values.

Arrays are `[groups, reduced, lanes]`, columns in the order of `gptq_factor.Factor`. A lane is one row of the weight in
one format; lanes run over formats, then rows.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantization.rounding.gptq_factor import Factor
from quantization.rounding.tiles import parts

_COLUMNS_AT_ONCE = 32  # below this many columns a matrix product per halving costs more than it saves
_GREEDY_MAY_LOSE = 256  # columns; beyond, comparing with the nearest codes costs much and gains nothing
_CHUNK = 1 << 20  # elements of [reduced, formats, rows] that are worked on at once
_LANES = 512  # rows, or so many where that is more: on fewer, calling numpy for each column costs as much as its work

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]


def chunks(shape: tuple[int, int, int], formats: int) -> Iterator[slice]:
    """Rows of a matrix `[groups, rows, reduced]` that are worked on together in so many formats."""
    groups, rows, reduced = shape
    elements = groups * reduced * formats
    return parts(rows, elements, max(_CHUNK, _LANES * reduced))


class Rounding(ABC):
    """How the values of some lanes are rounded; `codes` are `[groups, reduced, lanes]`, of the columns so far."""

    codes: NDArray[Any]

    @abstractmethod
    def column(self, column: int, values: Floats, rounded: Floats) -> None:
        """Round `values` `[groups, lanes]` of one column, write what their codes stand for into `rounded`."""


class IntegerRounding(Rounding):
    """`scale * clip(round(value / scale))` with bounds: codes less their zero point, to which `zero_point` is added.

    Scales, bounds and zero points are `[groups, reduced or 1, lanes]`; `zero_point` is None where all are 0.
    """

    def __init__(
        self, reduced: int, scales: Floats, lowest: Floats, highest: Floats, zero_point: Floats | None
    ) -> None:
        groups, own, lanes = scales.shape
        self._scales, self._lowest, self._highest, self._zero_point = scales, lowest, highest, zero_point
        self._is_shared = own == 1
        self.codes = np.empty((groups, reduced, lanes), dtype=np.int8)
        self._code = np.empty((groups, lanes), dtype=np.float32)

    def column(self, column: int, values: Floats, rounded: Floats) -> None:
        own = 0 if self._is_shared else column
        scale = self._scales[:, own]
        np.divide(values, scale, out=rounded)
        np.rint(rounded, out=rounded)
        np.maximum(rounded, self._lowest[:, own], out=rounded)
        np.minimum(rounded, self._highest[:, own], out=rounded)
        if self._zero_point is None:
            self.codes[:, column] = rounded
        else:
            self.codes[:, column] = np.add(rounded, self._zero_point[:, own], out=self._code)
        rounded *= scale


@dataclass(frozen=True, slots=True, eq=False)
class Columns:
    """Rounded columns: `deltas` is `value - weight`, the value being what the code stands for, and `errors` is
    `upper @ deltas`, which the loop gives as `value - target` at each column's turn."""

    factor: Factor
    weights: Floats
    rounding: Rounding
    errors: Floats
    deltas: Floats

    def moments(self, formats: int, wanted: Sequence[int]) -> NDArray[np.float64]:
        """`<w, v>_H` and `<v, v>_H` of weights w and values v, `[2, groups, formats, rows]`; 1 for those not `wanted`.

        With `E = L' d` and `A = L' w`, `L' v` is `E + A` [ours].
        """
        groups, reduced, lanes = self.weights.shape
        rows = lanes // formats
        moments = np.ones((2, groups, formats, rows))
        if not wanted:
            return moments
        A = self.factor.times(self.weights[:, :, :rows])  # the weights are the same in all formats
        diagonal = self.factor.diagonal[:, :, None]
        A *= diagonal
        errors = self.errors.reshape(groups, reduced, formats, rows)
        for index in wanted:
            V = errors[:, :, index] * diagonal
            V += A
            moments[0, :, index] = np.einsum("gkr,gkr->gr", V, A)
            moments[1, :, index] = np.einsum("gkr,gkr->gr", V, V)
        return moments


def round_columns(factor: Factor, weights: Floats, rounding: Rounding, kept: Mask | None = None) -> Columns:
    """Round all columns, the last first; a lane of few columns keeps its nearest codes where they are better.

    Args:
        kept: where true, the value is the target at its turn.
    """
    columns = Columns(factor, weights, rounding, weights.copy(), np.empty_like(weights))
    _round_halves(columns, kept, 0, weights.shape[1])
    if weights.shape[1] <= _GREEDY_MAY_LOSE:
        _keep_nearest_where_better(columns, kept)
    return columns


def _round_halves(columns: Columns, kept: Mask | None, start: int, stop: int) -> None:
    """Round columns `start..stop`, the last first; those from `stop` on have been counted in already."""
    if stop - start <= _COLUMNS_AT_ONCE:
        _round_one_by_one(columns, kept, start, stop)
        return
    U, W, D = columns.factor.upper, columns.errors, columns.deltas
    middle = (start + stop) // 2
    _round_halves(columns, kept, middle, stop)
    W[:, start:middle] -= U[:, start:middle, middle:stop] @ D[:, middle:stop]
    _round_halves(columns, kept, start, middle)


def _round_one_by_one(columns: Columns, kept: Mask | None, start: int, stop: int) -> None:
    """The same; views are cut and errors found for all columns at once where that changes nothing: with a few
    microseconds of work per column, every call counts.

    As in the paper W holds the targets with the updates so far, Q the values and Err their errors, which take the place
    of W; D is Q less the weights.
    """
    part = slice(start, stop)
    U, W = columns.factor.upper[:, part, part], columns.errors[:, part]
    weights, D = columns.weights[:, part], columns.deltas[:, part]
    update, Q = np.empty_like(W[:, :1]), np.empty_like(W.swapaxes(0, 1), order="C")
    for j in range(stop - start - 1, -1, -1):
        w, q = W[:, j], Q[j]
        if j + 1 < stop - start:
            np.matmul(U[:, j : j + 1, j + 1 :], D[:, j + 1 :], out=update)
            w -= update[:, 0]
        columns.rounding.column(start + j, w, q)
        if kept is not None:
            np.copyto(q, w, where=kept[:, start + j])
        np.subtract(q, weights[:, j], out=D[:, j])
    Err = W
    np.subtract(Q.swapaxes(0, 1), W, out=Err)


def _keep_nearest_where_better(columns: Columns, kept: Mask | None) -> None:
    """Give a lane its nearest codes where they have the smaller error `|L' d|**2`."""
    rounding, weights = columns.rounding, columns.weights
    codes, values, value = rounding.codes.copy(), np.empty_like(weights), np.empty_like(weights[:, 0])
    for column in range(weights.shape[1]):
        rounding.column(column, weights[:, column], value)
        values[:, column] = value
    if kept is not None:
        np.copyto(values, weights, where=kept)
    values -= weights
    errors = columns.factor.upper @ values
    squares = np.square(columns.factor.diagonal)[:, :, None]
    better = ((np.square(errors) * squares).sum(axis=1) < (np.square(columns.errors) * squares).sum(axis=1))[:, None]
    np.copyto(columns.errors, errors, where=better)
    np.copyto(columns.deltas, values, where=better)
    np.copyto(rounding.codes, codes, where=~better)

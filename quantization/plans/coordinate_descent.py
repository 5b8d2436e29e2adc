"""Coordinate descent on a rounded weight: every code once more, given all others.

Behdin et al., "QuantEase: Optimization-based Quantization for Language Models", arXiv 2309.01885. GPTQ settles every
column once, for the columns that are still open then; afterwards each code can still take the value that is best with
all other codes as they are. With d = s q - w the error of a row is `d H d'`, a parabola in each number q, so that

    q_j  <-  nearest(q_j - (d H)_j / (s H_jj))

never raises it, whatever values q may take: integers of some bits less their zero point, or the grid of a power format.
A sweep goes over all columns, all rows of a group at once; only rows whose code moves cost more than the look, and
columns are looked at several at once while nothing moves. After every sweep each scale takes the value of least error
for the codes, as in `quantization.rounding.gptq`; the scales of blocks stay as GPTQ left them.

A sweep costs up to `rows * reduced**2`, which is minutes where both are 8,192, and gains less the more columns make up
for each other: `sweeps_for` leaves wide weights as GPTQ rounded them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from quantization.granularity import spread
from quantization.rounding.gptq import ratios
from quantization.rounding.reduction import Reduction
from quantization.rounding.tiles import parts
from quantization.storage.powers import PowerWeight, ascending
from quantization.storage.weights import IntegerWeight

SWEEPS = 4
_ALL_SWEEPS, _ONE_SWEEP = 1024, 2048  # most columns
_LOOK_AHEAD = 64  # columns
_BLOCK = 128  # columns between two checks
_AT_ONCE = 1 << 16  # numbers

Doubles = NDArray[np.float64]
Number = TypeVar("Number", bound=np.generic)
Scaled = TypeVar("Scaled", IntegerWeight, PowerWeight)
Nearest = Callable[[slice, Doubles], Doubles]
"""The nearest numbers that a row `[rows, columns]` may take in some columns; may be written over what it gets."""


def sweeps_for(columns: int, sweeps: int) -> int:
    """How many of so many sweeps a weight of so many columns is worth."""
    return sweeps if columns <= _ALL_SWEEPS else min(sweeps, 1) if columns <= _ONE_SWEEP else 0


def coordinate_descent(
    start: Scaled,
    target: NDArray[np.floating[Any]],
    hessian: Doubles,
    reduction: Reduction,
    sweeps: int = SWEEPS,
    check: Callable[[], None] = lambda: None,
) -> Scaled:
    """`start` with codes and scales whose error `d H d'`, summed over the rows of a scale, is never above its own.

    Args:
        start: zero points, the scales of blocks, and a power grid stay.
        target: the values w that are approached, `[groups, rows, reduced]`.
        hessian: H, `[groups, reduced, reduced]`, positive definite.
        reduction: how the layer sees the weight.
        sweeps: at most; it ends earlier when nothing changes any more.
        check: called for every block of columns; what it raises ends the work.
    """
    if sweeps < 1:
        return start
    grid = _Grid(start, reduction)
    numbers = np.arange(start.scale.size).reshape(start.scale.shape)
    owner = None if start.format.block else reduction.by_row(spread(numbers, start.format, start.shape))
    scales = start.scale.astype(np.float64)
    row_scales = _spread(start, scales, reduction)
    aims = target.astype(np.float64) @ hessian
    slopes = (grid.numbers * row_scales) @ hessian
    slopes -= aims
    for _ in range(sweeps):
        moved = [
            sweep(grid.numbers[group], slopes[group], row_scales[group], own, partial(grid.nearest, group), check)
            for group, own in enumerate(hessian)
        ]
        if owner is not None:
            slopes += aims  # in place: these arrays are the largest that a weight takes
            moments = _moments(grid.numbers, row_scales, (aims, slopes))
            factors = ratios(moments, owner, scales.size)
            slopes *= factors[owner][:, :, None]
            slopes -= aims
            scales = scales * factors.reshape(scales.shape)
            row_scales = _spread(start, scales, reduction)
        if not any(moved):
            break
    return replace(start, codes=grid.codes(), scale=np.asarray(scales, dtype=np.float32))


def _moments(numbers: Doubles, row_scales: Doubles, images: Sequence[Doubles]) -> Doubles:
    """`<v, image>` of the values `v = numbers * row_scales` with each of `images`, `[images, groups, rows]`; of some
    rows at a time."""
    _, rows, reduced = numbers.shape
    moments = np.empty((len(images), *numbers.shape[:2]))
    for some in parts(rows, reduced, _AT_ONCE):
        values = numbers[:, some] * row_scales[:, some]
        for place, image in enumerate(images):
            moments[place, :, some] = (values * image[:, some]).sum(axis=2)
    return moments


class _Grid:
    """The `numbers` `[groups, rows, reduced]` that codes stand for before they are scaled, and those that they may."""

    def __init__(self, weight: IntegerWeight | PowerWeight, reduction: Reduction) -> None:
        self._weight, self._reduction = weight, reduction
        half = 1 << (weight.format.bits - 1)
        codes = reduction.to_matrix(weight.codes).astype(np.float64)
        if isinstance(weight, PowerWeight):
            self._half = half
            self._values = ascending(weight.table).astype(np.float64)
            self._middles = (self._values[1:] + self._values[:-1]) / 2
            self.numbers: Doubles = self._values[codes.astype(np.intp) + half]
            return
        given = np.zeros_like(weight.scale) if weight.zero_point is None else weight.zero_point
        shared = given.astype(np.float64)
        every = (_spread(weight, own, reduction) for own in (shared, -half - shared, half - 1 - shared))
        self._zero_points, self._lowest, self._highest = every
        self.numbers = codes - self._zero_points

    def nearest(self, group: int, columns: slice, wanted: Doubles) -> Doubles:
        if isinstance(self._weight, PowerWeight):
            return np.asarray(self._values[np.searchsorted(self._middles, wanted)])
        np.rint(wanted, out=wanted)
        np.maximum(wanted, self._lowest[group][:, columns], out=wanted)
        np.minimum(wanted, self._highest[group][:, columns], out=wanted)
        return wanted

    def codes(self) -> NDArray[np.int8]:
        """Of the numbers, in the weight's shape."""
        if isinstance(self._weight, PowerWeight):
            codes = (np.searchsorted(self._middles, self.numbers) - self._half).astype(np.int8)
        else:
            codes = (self.numbers + self._zero_points).astype(np.int8)
        return self._reduction.from_matrix(codes, self._weight.shape)


def _spread(weight: IntegerWeight | PowerWeight, shared: NDArray[Number], reduction: Reduction) -> NDArray[Number]:
    """For every weight what it shares, an array of the shape of the scales: `[groups, rows, reduced]`."""
    matrix = reduction.to_matrix(spread(shared, weight.format, weight.shape))
    return np.ascontiguousarray(matrix) if weight.format.block else matrix


def sweep(
    Q: Doubles,
    G: Doubles,
    S: Doubles,
    H: Doubles,
    nearest: Nearest,
    check: Callable[[], None],
) -> bool:
    """One sweep over the numbers Q and the slopes `G = d H` of their rows, both `[rows, reduced]` and changed in place;
    whether a number changed.

    Args:
        S: the scale of each number, `[rows, reduced]`.
        H: `[reduced, reduced]`.
        nearest: the numbers that a row may take.
        check: called for every block of columns; what it raises ends the work.
    """
    curvatures = H.diagonal()
    moved, ahead, column, checked = False, 1, 0, 0
    while column < len(curvatures):
        if column >= checked:
            check()
            checked = column + _BLOCK
        part = slice(column, column + ahead)
        wanted = G[:, part] / (S[:, part] * -curvatures[part])
        wanted += Q[:, part]
        steps = nearest(part, wanted)
        steps -= Q[:, part]
        columns, rows = steps.T.nonzero()
        if not len(columns):
            column += steps.shape[1]
            ahead = min(2 * ahead, _LOOK_AHEAD)
            continue
        ahead = int(columns[0]) + 1  # those behind it see other slopes now
        column += ahead
        j = column - 1
        rows = rows[: columns.searchsorted(ahead)]
        own = steps[rows, ahead - 1]
        Q[rows, j] += own
        G[rows] += (own * S[rows, j])[:, None] * H[j]
        moved = True
    return moved

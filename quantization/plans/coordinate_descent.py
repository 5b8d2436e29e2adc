"""Coordinate descent on a rounded weight: every code once more, given all others.

Behdin et al., "QuantEase: Optimization-based Quantization for Language Models", arXiv 2309.01885. GPTQ settles every
column once, for the columns that are still open then; afterwards each code can still take the value that is best with
all other codes as they are. With d = s q - w the error of a row is `d H d'`, a parabola in each number q, so that

    q_j  <-  nearest(q_j - (d H)_j / (s H_jj))

never raises it, whatever values q may take: integers of some bits, or the grid of a power format. A sweep goes over all
columns, all rows of a group at once; only rows whose code moves cost more than the look, and columns are looked at
several at once while nothing moves. After every sweep each scale takes the value of least error for the codes, as in
`quantization.rounding.gptq`.

A sweep costs up to `rows * reduced**2`, which is minutes where both are 8,192, and gains less the more columns make up
for each other: `sweeps_for` leaves wide weights as GPTQ rounded them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from quantization.rounding.reduction import Reduction
from quantization.storage.powers import PowerWeight, ascending
from quantization.storage.weights import IntegerWeight

SWEEPS = 4
_ALL_SWEEPS, _ONE_SWEEP = 1024, 2048  # most columns
_LOOK_AHEAD = 64  # columns
_BLOCK = 128  # columns between two checks
_SMALLEST_RATIO = 1 / 16  # a scale that would all but vanish stays as it was

Doubles = NDArray[np.float64]
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
        start: codes and scales, one scale per channel or per tensor, without zero points; a power grid stays.
        target: the values w that are approached, `[groups, rows, reduced]`.
        hessian: H, `[groups, reduced, reduced]`, positive definite.
        reduction: how the layer sees the weight.
        sweeps: at most; it ends earlier when nothing changes any more.
        check: called for every block of columns; what it raises ends the work.
    """
    if sweeps < 1:
        return start
    grid = _Grid(start)
    numbers = grid.numbers(reduction.to_matrix(start.codes))
    places = np.arange(start.scale.size).reshape(start.scale.shape)
    owner = np.ascontiguousarray(reduction.to_matrix(np.broadcast_to(places, start.shape))[:, :, :1])
    scales = start.scale.ravel().astype(np.float64)
    aims = target.astype(np.float64) @ hessian
    slopes = (numbers * scales[owner]) @ hessian - aims
    for _ in range(sweeps):
        moved = [
            sweep(numbers[group], slopes[group], scales[owner[group]], moments, grid.nearest, check)
            for group, moments in enumerate(hessian)
        ]
        ratios = _best_ratios(numbers, scales[owner], slopes, aims, owner, len(scales))
        slopes = (slopes + aims) * ratios[owner] - aims
        scales = scales * ratios
        if not any(moved):
            break
    found = reduction.from_matrix(grid.codes(numbers), start.shape)
    return replace(start, codes=found, scale=scales.astype(np.float32).reshape(start.scale.shape))


class _Grid:
    """The numbers that codes stand for, before they are scaled."""

    def __init__(self, weight: IntegerWeight | PowerWeight) -> None:
        half = 1 << (weight.format.bits - 1)
        self._lowest, self._highest = -half, half - 1
        self._values = None if isinstance(weight, IntegerWeight) else ascending(weight.table).astype(np.float64)
        self._middles = None if self._values is None else (self._values[1:] + self._values[:-1]) / 2

    def numbers(self, codes: NDArray[np.int8]) -> Doubles:
        return codes.astype(np.float64) if self._values is None else self._values[codes.astype(np.intp) - self._lowest]

    def codes(self, numbers: Doubles) -> NDArray[np.int8]:
        """The inverse of `numbers`."""
        if self._middles is None:
            return numbers.astype(np.int8)
        return (np.searchsorted(self._middles, numbers) + self._lowest).astype(np.int8)

    def nearest(self, _columns: slice, wanted: Doubles) -> Doubles:
        if self._values is not None and self._middles is not None:
            return self._values[np.searchsorted(self._middles, wanted)]
        np.rint(wanted, out=wanted)
        np.maximum(wanted, self._lowest, out=wanted)
        return np.minimum(wanted, self._highest, out=wanted)


def sweep(
    numbers: Doubles,
    slopes: Doubles,
    scales: Doubles,
    hessian: Doubles,
    nearest: Nearest,
    check: Callable[[], None],
) -> bool:
    """One sweep over `numbers` `[rows, reduced]` and `slopes`, their `d H`, both in place, with `scales` `[rows, 1]`;
    whether a number changed."""
    curvatures = hessian.diagonal()
    moved, ahead, column, checked = False, 1, 0, 0
    while column < len(curvatures):
        if column >= checked:
            check()
            checked = column + _BLOCK
        part = slice(column, column + ahead)
        wanted = slopes[:, part] / (scales * -curvatures[part])
        wanted += numbers[:, part]
        steps = nearest(part, wanted)
        steps -= numbers[:, part]
        columns, rows = steps.T.nonzero()
        if not len(columns):
            column += steps.shape[1]
            ahead = min(2 * ahead, _LOOK_AHEAD)
            continue
        ahead = int(columns[0]) + 1  # those behind it see other slopes now
        column += ahead
        rows = rows[: columns.searchsorted(ahead)]
        own = steps[rows, ahead - 1]
        numbers[rows, column - 1] += own
        slopes[rows] += (own * scales[rows, 0])[:, None] * hessian[column - 1]
        moved = True
    return moved


def _best_ratios(
    numbers: Doubles, scales: Doubles, slopes: Doubles, aims: Doubles, owner: NDArray[np.intp], count: int
) -> Doubles:
    """By how much each of `count` scales is to be multiplied: `<w, s q>_H / <s q, s q>_H` over its rows."""
    values = numbers * scales
    products, squares = (
        np.bincount(owner.ravel(), (values * images).sum(axis=2).ravel(), minlength=count)
        for images in (aims, slopes + aims)
    )
    ratios = np.divide(products, squares, out=np.ones(count), where=squares > 0)
    return np.where(ratios > _SMALLEST_RATIO, ratios, 1.0)

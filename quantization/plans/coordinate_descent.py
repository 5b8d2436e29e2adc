"""Coordinate descent on a rounded weight: every code once more, given all others.

Behdin et al., "QuantEase: Optimization-based Quantization for Language Models", arXiv 2309.01885. GPTQ settles every
column once, for the columns that are still open then; afterwards each code can still take the value that is best with
all other codes as they are. With d = s q - w the error of a row is `d H d'`, a parabola in each code, so that

    q_j  <-  clip(round(q_j - (d H)_j / (s H_jj)))

never raises it. A sweep goes over all columns, all rows of a group at once; only rows whose code moves cost more than
the look, and columns are looked at several at once while nothing moves. After every sweep each scale takes the value of
least error for the codes, as in `quantization.rounding.gptq`.

A sweep costs up to `rows * reduced**2`, which is minutes where both are 8,192, and gains less the more columns make up
for each other: `sweeps_for` leaves wide weights as GPTQ rounded them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantization.rounding.reduction import Reduction
from quantization.storage.weights import IntegerWeight

SWEEPS = 4
_ALL_SWEEPS, _ONE_SWEEP = 1024, 2048  # most columns
_LOOK_AHEAD = 64  # columns
_BLOCK = 128  # columns between two checks
_SMALLEST_RATIO = 1 / 16  # a scale that would all but vanish stays as it was

Doubles = NDArray[np.float64]


def sweeps_for(columns: int, sweeps: int) -> int:
    """How many of so many sweeps a weight of so many columns is worth."""
    return sweeps if columns <= _ALL_SWEEPS else min(sweeps, 1) if columns <= _ONE_SWEEP else 0


def coordinate_descent(
    start: IntegerWeight,
    target: NDArray[np.floating[Any]],
    hessian: Doubles,
    reduction: Reduction,
    sweeps: int = SWEEPS,
    check: Callable[[], None] = lambda: None,
) -> IntegerWeight:
    """`start` with codes and scales whose error `d H d'`, summed over the rows of a scale, is never above its own.

    Args:
        start: codes and scales, one scale per channel or per tensor, without zero points.
        target: the values w that are approached, `[groups, rows, reduced]`.
        hessian: H, `[groups, reduced, reduced]`, positive definite.
        reduction: how the layer sees the weight.
        sweeps: at most; it ends earlier when nothing changes any more.
        check: called for every block of columns; what it raises ends the work.
    """
    if sweeps < 1:
        return start
    codes = reduction.to_matrix(start.codes).astype(np.float64)
    numbers = np.arange(start.scale.size).reshape(start.scale.shape)
    owner = np.ascontiguousarray(reduction.to_matrix(np.broadcast_to(numbers, start.shape))[:, :, :1])
    scales = start.scale.ravel().astype(np.float64)
    bounds = start.format.lowest_code, start.format.highest_code
    aims = target.astype(np.float64) @ hessian
    slopes = (codes * scales[owner]) @ hessian - aims
    for _ in range(sweeps):
        moved = [
            _sweep(codes[group], slopes[group], scales[owner[group]], moments, bounds, check)
            for group, moments in enumerate(hessian)
        ]
        ratios = _best_ratios(codes, scales[owner], slopes, aims, owner, len(scales))
        slopes = (slopes + aims) * ratios[owner] - aims
        scales = scales * ratios
        if not any(moved):
            break
    found = reduction.from_matrix(codes.astype(np.int8), start.shape)
    return replace(start, codes=found, scale=scales.astype(np.float32).reshape(start.scale.shape))


def _sweep(
    codes: Doubles,
    slopes: Doubles,
    scales: Doubles,
    hessian: Doubles,
    bounds: tuple[int, int],
    check: Callable[[], None],
) -> bool:
    """One sweep over `codes` `[rows, reduced]` and `slopes`, their `d H`, both in place, with `scales` `[rows, 1]`;
    whether a code changed."""
    curvatures = hessian.diagonal()
    moved, ahead, column, checked = False, 1, 0, 0
    while column < len(curvatures):
        if column >= checked:
            check()
            checked = column + _BLOCK
        part = slice(column, column + ahead)
        steps = slopes[:, part] / (scales * -curvatures[part])
        steps += codes[:, part]
        np.rint(steps, out=steps)
        np.maximum(steps, bounds[0], out=steps)
        np.minimum(steps, bounds[1], out=steps)
        steps -= codes[:, part]
        columns, rows = steps.T.nonzero()
        if not len(columns):
            column += steps.shape[1]
            ahead = min(2 * ahead, _LOOK_AHEAD)
            continue
        ahead = int(columns[0]) + 1  # those behind it see other slopes now
        column += ahead
        rows = rows[: columns.searchsorted(ahead)]
        own = steps[rows, ahead - 1]
        codes[rows, column - 1] += own
        slopes[rows] += (own * scales[rows, 0])[:, None] * hessian[column - 1]
        moved = True
    return moved


def _best_ratios(
    codes: Doubles, scales: Doubles, slopes: Doubles, aims: Doubles, owner: NDArray[np.intp], count: int
) -> Doubles:
    """By how much each of `count` scales is to be multiplied: `<w, s q>_H / <s q, s q>_H` over its rows."""
    values = codes * scales
    products, squares = (
        np.bincount(owner.ravel(), (values * images).sum(axis=2).ravel(), minlength=count)
        for images in (aims, slopes + aims)
    )
    ratios = np.divide(products, squares, out=np.ones(count), where=squares > 0)
    return np.where(ratios > _SMALLEST_RATIO, ratios, 1.0)

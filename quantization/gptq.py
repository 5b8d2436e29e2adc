"""GPTQ: rounding that lets the columns still open make up for the error of those already rounded.

Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers", arXiv 2210.17323.
Per row w of a layer it seeks codes q with small `(s q - w) H (s q - w)'`, `H = sum x x'`.

Differences from the paper's listing:

1. The columns are rounded from the last to the first with the Cholesky factor `H = L L'` itself, not from the first
   to the last with the factor of the inverse. With d = s q - w the error is `|L' d|**2`, and row j of `L' d` is
   `L_jj d_j + sum_{k>j} L_kj d_k`: the best real value for column j, given what was rounded, is
   `w_j - sum_{k>j} (L_kj / L_jj) d_k`. These are the paper's updates, H ordered the other way round (Chen et al.,
   "The Geometry of LLM Quantization: GPTQ as Babai's Nearest Plane Algorithm", arXiv 2507.18553), without its inverse.
2. Lazy updates of blocks are a recursion over halves of the columns, each update one matrix product over all formats
   and rows at once.
3. Afterwards each scale takes the value of least error for the codes found, `<w, q>_H / <q, q>_H`. Its products come
   from the rounding errors: with `E` the error of each column at its turn and `A = (L / diag L)' w`, the vector
   `(L / diag L)' s q` is `E + A` [ours]. ResNet20, 2 bits: 83.5 % of the evaluation images right, 80.7 % without.
4. Rounding column by column is greedy, and rows of few columns (depthwise convolutions) may end up worse than at their
   nearest codes. Up to 256 columns both are compared, row by row; beyond, the comparison would cost as much as the
   rounding and never be lost.
5. A column whose inputs were always zero keeps its nearest code; the paper sets it to zero, which would break a
   network whose samples merely do not reach that channel.

The scales start at least squared error in the weights themselves. Weighting each column by its diagonal entry of H was
measured on ResNet20 (3,000 evaluation images, KL divergence from the float outputs at 2 / 3 / 4 bits, two rounds with
refitted scales): .212 / .0324 / .0103 with these weights, .210 / .0317 / .0092 without, so it is not done.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve, cholesky

from quantization.coordinate_descent import coordinate_descent
from quantization.formats import IntegerFormat
from quantization.ranges import optimal_scales
from quantization.reduction import Reduction
from quantization.statistics import InputStatistics
from quantization.weights import IntegerWeight

DAMPING = 0.01
_HIGHEST_DAMPING = 100.0
_COLUMNS_AT_ONCE = 8  # below this many columns a matrix product per halving costs more than it saves
_GREEDY_MAY_LOSE = 256  # columns; see point 4
_CHUNK = 1 << 22  # elements of [reduced, formats, rows] that are worked on at once

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class GptqResult:
    """A weight in each of the formats asked for, and how it went.

    `damping` is what was added to the diagonal of H, as a fraction of its mean; `note` is empty, or says why that is
    more than was asked for.
    """

    weights: tuple[IntegerWeight, ...]
    damping: float
    note: str = ""


def gptq(
    weight: Floats,
    formats: Sequence[IntegerFormat],
    channel_axis: int,
    statistics: InputStatistics,
    damping: float = DAMPING,
    sweeps: int = 0,
) -> GptqResult:
    """`weight` in each of `formats`, rounded by GPTQ; one Cholesky factor and one column loop serve all formats.

    Where the statistics also hold what the float network's inputs were (`InputStatistics.cross`), the target is not
    the weight W but `W + W (sum (x_float - x) x') H**-1`: the weight that gives the float layer's outputs from the
    inputs it really gets (the idea of GPTAQ, arXiv 2504.02692).

    Args:
        weight: finite float32, the weight that `statistics` was made for.
        channel_axis: axis of the output channels.
        damping: added to the diagonal of H, as a fraction (> 0) of its mean.
        sweeps: of coordinate descent behind GPTQ, at most (`quantization.coordinate_descent`).

    Raises:
        ValueError: damping out of range, or a weight that is not finite or of another shape.
    """
    if not 0 < damping <= _HIGHEST_DAMPING:
        raise ValueError(f"damping must be above 0 and at most {_HIGHEST_DAMPING}, got {damping}")
    reduction = statistics.reduction
    matrix = reduction.to_matrix(weight)
    if statistics.hessian.shape != (matrix.shape[0], matrix.shape[2], matrix.shape[2]):
        raise ValueError(f"statistics of shape {statistics.hessian.shape} do not fit a weight seen as {matrix.shape}")
    factor, reached = _factorise(statistics.hessian, damping)
    if statistics.cross is not None:
        matrix = (matrix + factor.solve(matrix @ statistics.cross)).astype(np.float32)
        weight = reduction.from_matrix(matrix, weight.shape)
    scales = optimal_scales(weight, formats, channel_axis)
    channels = [_channel_of_row(scale.shape, reduction, weight.shape) for scale in scales]
    row_scales = np.stack([s.ravel()[c] for s, c in zip(scales, channels, strict=True)], axis=1)
    codes, moments = _round_all(matrix, factor, formats, row_scales)
    weights = tuple(
        IntegerWeight(
            format_,
            reduction.from_matrix(codes[:, index], weight.shape),
            _refit(scales[index], channels[index], moments[:, :, index]),
        )
        for index, format_ in enumerate(formats)
    )
    if sweeps:
        damped = _damped(statistics.hessian, reached)
        target = matrix.astype(np.float64)
        weights = tuple(coordinate_descent(rounded, target, damped, reduction, sweeps) for rounded in weights)
    note = "" if reached == damping else f"H could not be factorised at damping {damping:g}; {reached:g} was used"
    return GptqResult(weights, reached, note)


def _channel_of_row(scale: tuple[int, ...], reduction: Reduction, weight: tuple[int, ...]) -> NDArray[np.intp]:
    """Which scale, counted through an array of shape `scale`, each row `[groups, rows]` of the weight takes."""
    numbers = np.arange(math.prod(scale)).reshape(scale)
    matrix = reduction.to_matrix(np.broadcast_to(numbers, weight))
    if (matrix != matrix[:, :, :1]).any():
        raise ValueError(f"scales of shape {scale} change along the inputs that a weight of shape {weight} sums over")
    return np.ascontiguousarray(matrix[:, :, 0])


def _refit(scale: Floats, channel: NDArray[np.intp], moments: NDArray[np.float64]) -> Floats:
    """`scale * <w, s q>_H / <s q, s q>_H` from both `moments` `[2, groups, rows]`, summed over each scale's rows."""
    product, square = (np.bincount(channel.ravel(), m.ravel(), minlength=scale.size) for m in moments)
    ratio = np.divide(product, square, out=np.ones_like(square), where=square > 0).reshape(scale.shape)
    # a scale that would all but vanish (codes against the weight in the directions that H knows) stays as it was
    return np.where(ratio > 1 / 16, scale * ratio, scale).astype(np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class _Factor:
    """Damped H of each group, columns in `order` (rising diagonal), as `L L'` with `L = unit * diagonal`.

    Factorised in float64 and kept in float32, for the updates.
    """

    order: NDArray[np.intp]
    unit: Floats
    diagonal: Floats

    def sort(self, matrix: Floats) -> Floats:
        """`[groups, rows, reduced]` as `[groups, reduced, rows]` in the factor's order."""
        return np.take_along_axis(matrix, self.order[:, None, :], axis=2).swapaxes(1, 2)

    def unsort(self, columns: NDArray[np.int8]) -> NDArray[np.int8]:
        """The inverse of `sort`."""
        matrix = np.empty_like(columns)
        np.put_along_axis(matrix, self.order[:, :, None], columns, axis=1)
        return matrix.swapaxes(1, 2)

    def solve(self, matrix: NDArray[np.float64]) -> NDArray[np.float64]:
        """`matrix H**-1`, per group."""
        solved = np.empty_like(matrix)
        for group, order in enumerate(self.order):
            lower = np.multiply(self.unit[group], self.diagonal[group], dtype=np.float64)
            solved[group][:, order] = cho_solve((lower, True), matrix[group][:, order].T).T
        return solved


def _factorise(hessian: NDArray[np.float64], damping: float) -> tuple[_Factor, float]:
    """The factor of `hessian` `[groups, reduced, reduced]` and the damping it took, at least the one given."""
    while True:
        try:
            return _factorise_at(hessian, damping), damping
        except np.linalg.LinAlgError:
            if damping >= _HIGHEST_DAMPING:
                raise
            damping = min(10 * damping, _HIGHEST_DAMPING)


def _damped(hessian: NDArray[np.float64], damping: float) -> NDArray[np.float64]:
    """`hessian` `[groups, reduced, reduced]` with what `_factorise_at` adds to its diagonal."""
    means = np.einsum("gii->g", hessian) / hessian.shape[1]
    added = damping * np.where(means == 0, 1.0, means)
    return hessian + added[:, None, None] * np.eye(hessian.shape[1])


def _factorise_at(hessian: NDArray[np.float64], damping: float) -> _Factor:
    """The factor at exactly this damping.

    Raises:
        numpy.linalg.LinAlgError: the damped H of some group is not positive definite.
    """
    groups, reduced, _ = hessian.shape
    diagonals = np.einsum("gii->gi", hessian)
    order = np.argsort(-diagonals, axis=1, kind="stable")[:, ::-1]  # of equal columns the first is rounded first
    unit = np.empty(hessian.shape, dtype=np.float32)
    pivots = np.empty((groups, reduced), dtype=np.float32)
    for group in range(groups):
        # a group without any input has H = 0: damping alone, of any size, makes its rounding nearest
        added = damping * (diagonals[group].mean() or 1.0)
        damped = hessian[group][np.ix_(order[group], order[group])]
        damped[np.diag_indices(reduced)] += added
        lower = cholesky(damped.T, lower=True, overwrite_a=True, check_finite=False)
        pivots[group] = lower.diagonal()
        np.divide(lower, lower.diagonal(), out=unit[group], casting="same_kind")
    return _Factor(order, unit, pivots)


@dataclass(frozen=True, slots=True, eq=False)
class _Columns:
    """The column loop's arrays: `[groups, reduced, lanes]`, a lane being one row in one format.

    `open` holds, for a column still open, its target with the updates so far, and for a rounded one its rounding error
    at its turn, `code * scale - target`; in the end that is `unit' (s q - w)`. `deltas` is `code * scale - weight`.
    The last three are `[groups, lanes]` or `[lanes]`.
    """

    unit: Floats
    weights: Floats
    open: Floats
    deltas: Floats
    codes: NDArray[np.int8]
    scales: Floats
    lowest: Floats
    highest: Floats

    def round(self, start: int, stop: int) -> None:
        """Round columns `start..stop`, the last first; those from `stop` on have been counted in already."""
        if stop - start > _COLUMNS_AT_ONCE:
            middle = (start + stop) // 2
            self.round(middle, stop)
            self.open[:, start:middle] -= self.unit[:, middle:stop, start:middle].mT @ self.deltas[:, middle:stop]
            self.round(start, middle)
            return
        for column in range(stop - 1, start - 1, -1):
            value = self.open[:, column]
            if column + 1 < stop:
                value -= (self.unit[:, None, column + 1 : stop, column] @ self.deltas[:, column + 1 : stop])[:, 0]
            code = np.rint(value / self.scales)
            np.minimum(np.maximum(code, self.lowest, out=code), self.highest, out=code)
            self.codes[:, column] = code
            code *= self.scales
            np.subtract(code, self.weights[:, column], out=self.deltas[:, column])
            np.subtract(code, value, out=value)

    def keep_nearest_where_better(self, diagonal: Floats) -> None:
        """Give a lane its nearest codes where they have the smaller error `|L' d|**2`, L = `unit` x `diagonal`."""
        nearest = np.rint(self.weights / self.scales[:, None])
        np.minimum(np.maximum(nearest, self.lowest, out=nearest), self.highest, out=nearest)
        errors = self.unit.mT @ (nearest * self.scales[:, None] - self.weights)
        totals = [(np.square(e) * np.square(diagonal)[:, :, None]).sum(axis=1) for e in (self.open, errors)]
        better = (totals[1] < totals[0])[:, None]
        np.copyto(self.open, errors, where=better)
        np.copyto(self.codes, nearest.astype(np.int8), where=better)


def _round_all(
    matrix: Floats, factor: _Factor, formats: Sequence[IntegerFormat], scales: Floats
) -> tuple[NDArray[np.int8], NDArray[np.float64]]:
    """`matrix` `[groups, rows, reduced]` in all `formats` at `scales` `[groups, formats, rows]`.

    Returns:
        Codes `[groups, formats, rows, reduced]`, and `_moments` `[2, groups, formats, rows]`.
    """
    groups, rows, reduced = matrix.shape
    lowest = np.array([f.lowest_code for f in formats], dtype=np.float32)
    highest = np.array([f.highest_code for f in formats], dtype=np.float32)
    codes = np.empty((groups, len(formats), rows, reduced), dtype=np.int8)
    moments = np.empty((2, groups, len(formats), rows))
    step = max(1, _CHUNK // (groups * reduced * len(formats)))
    for first in range(0, rows, step):
        chunk = slice(first, min(first + step, rows))
        count = chunk.stop - first
        weights = np.tile(factor.sort(matrix[:, chunk]), (1, 1, len(formats)))
        columns = _Columns(
            unit=factor.unit,
            weights=weights,
            open=weights.copy(),
            deltas=np.empty_like(weights),
            codes=np.empty(weights.shape, dtype=np.int8),
            scales=scales[:, :, chunk].reshape(groups, -1),
            lowest=np.repeat(lowest, count),
            highest=np.repeat(highest, count),
        )
        columns.round(0, reduced)
        if reduced <= _GREEDY_MAY_LOSE:
            columns.keep_nearest_where_better(factor.diagonal)
        codes[:, :, chunk] = factor.unsort(columns.codes).reshape(groups, len(formats), count, reduced)
        moments[:, :, :, chunk] = _moments(columns, factor, len(formats))
    return codes, moments


def _moments(columns: _Columns, factor: _Factor, formats: int) -> NDArray[np.float64]:
    """`<w, s q>_H` and `<s q, s q>_H`, `[2, groups, formats, rows]` (point 3 of the module's docstring)."""
    groups, reduced, lanes = columns.weights.shape
    rows = lanes // formats
    own = (factor.unit.mT @ columns.weights[:, :, :rows])[:, :, None]  # the weights are the same in all formats
    own *= factor.diagonal[:, :, None, None]
    whole = columns.open.reshape(groups, reduced, formats, rows) * factor.diagonal[:, :, None, None]
    whole += own
    products = (whole * own).sum(axis=1, dtype=np.float64)
    return np.stack([products, np.square(whole).sum(axis=1, dtype=np.float64)])

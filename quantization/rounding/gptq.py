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
3. Afterwards each scale takes the value of least error for the codes found, `<w, q>_H / <q, q>_H`; the scales of a
   row's blocks are multiplied by one such ratio. ResNet20, 2 bits: 83.5 % of the evaluation images right, 80.7 %
   without. It takes 3.7 / 1.7 % off the error of 2 / 3 bits, and of 4 and more 0.8 % in rows of 27 to 576 columns,
   less the longer they are (0.1 % of 2,048): of more than 1,024 it would cost as much as the rounding, and is left out.
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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from network.graph import ChannelAxis
from quantization.formats import IntegerFormat
from quantization.granularity import facing, spread
from quantization.rounding.affine_ranges import optimal_affine
from quantization.rounding.gptq_columns import Floats, IntegerRounding, Rounding, chunks, round_columns
from quantization.rounding.gptq_factor import HIGHEST_DAMPING, Factor, factorise
from quantization.rounding.ranges import finite_float32, optimal_scales
from quantization.rounding.reduction import Reduction
from quantization.rounding.statistics import InputStatistics
from quantization.storage.half_scales import round_scales
from quantization.storage.weights import IntegerWeight

DAMPING = 0.01
_REFIT_COLUMNS, _REFIT_BITS = 1024, 3  # beyond both scales are not refitted; see point 3
_SMALLEST_RATIO = 1 / 16

Rotate = Callable[[NDArray[Any]], NDArray[Any]]


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """What all GPTQ of one weight shares: the `target` in the weight's own shape, as `matrix` `[groups, rows,
    reduced]`, H, and the factor of damped H. `note` is empty, or says why H was damped more than it should be."""

    target: Floats
    matrix: Floats
    reduction: Reduction
    hessian: NDArray[np.float64]
    factor: Factor
    note: str

    def owner(self, scale: tuple[int, ...]) -> NDArray[np.intp]:
        """Which scale, counted through an array of shape `scale`, each row `[groups, rows]` takes.

        Raises:
            ValueError: weights of one row take different scales.
        """
        shape = self.target.shape
        owner = self.reduction.by_row(np.broadcast_to(np.arange(math.prod(scale)).reshape(scale), shape))
        if owner is None:
            raise ValueError(
                f"scales of shape {scale} change along the inputs that a weight of shape {shape} sums over"
            )
        return owner


def prepare(
    weight: Floats, statistics: InputStatistics, damping: float = DAMPING, rotate: Rotate | None = None
) -> Prepared:
    """The target that `weight` is rounded to, and the factor of H: the costly part, the same for every format.

    Where the statistics also hold what the float network's inputs were (`InputStatistics.cross`), the target is not
    the weight W but `W + W (sum (x_float - x) x') H**-1`: the weight that gives the float layer's outputs from the
    inputs it really gets (the idea of GPTAQ, arXiv 2504.02692).

    Args:
        weight: finite float32, the weight that `statistics` was made for.
        damping: added to the diagonal of H, as a fraction (> 0) of its mean.
        rotate: multiplies the last axis of any array by an orthogonal matrix R, the same for all rows: the target is
            then W R, in the place of W, and H is R' H R.

    Raises:
        ValueError: damping out of range, or a weight that is not finite or of another shape.
    """
    if not 0 < damping <= HIGHEST_DAMPING:
        raise ValueError(f"damping must be above 0 and at most {HIGHEST_DAMPING}, got {damping}")
    reduction = statistics.reduction
    matrix, hessian, cross = reduction.to_matrix(finite_float32(weight)), statistics.hessian, statistics.cross
    if hessian.shape != (matrix.shape[0], matrix.shape[2], matrix.shape[2]):
        raise ValueError(f"statistics of shape {hessian.shape} do not fit a weight seen as {matrix.shape}")
    if rotate is not None:
        matrix, hessian = rotate(matrix), rotate(rotate(hessian).mT).mT
        cross = None if cross is None else rotate(cross)
    factor = factorise(hessian, damping)
    if cross is not None:
        matrix = (matrix + factor.solve(cross)).astype(np.float32)
    target = weight if cross is None and rotate is None else reduction.from_matrix(matrix, weight.shape)
    note = f"H could not be factorised at damping {damping:g}; {factor.damping:g} was used"
    return Prepared(target, matrix, reduction, hessian, factor, "" if factor.damping == damping else note)


def gptq(prepared: Prepared, formats: Sequence[IntegerFormat], channel_axis: ChannelAxis) -> list[IntegerWeight]:
    """The target of `prepared` in each of `formats`; one Cholesky factor and one column loop serve all formats.

    Args:
        formats: of any granularity, symmetric or not; blocks divide what an output sums over.
        channel_axis: axis of the output channels.

    Raises:
        ValueError: blocks that do not fit, or a channel axis along which the layer sums.
    """
    shared = [_Shared.of(prepared, format_, channel_axis) for format_ in formats]
    reduced = prepared.matrix.shape[2]
    refitted = [i for i, own in enumerate(shared) if reduced <= _REFIT_COLUMNS or own.format.bits <= _REFIT_BITS]
    codes, moments = round_rows(prepared, len(shared), partial(_rounding, prepared.factor, shared), refitted, np.int8)
    return [
        IntegerWeight(
            own.format,
            prepared.reduction.from_matrix(codes[:, index], prepared.target.shape),
            own.refitted(prepared, moments[:, :, index]),
            None if own.format.symmetric else own.zero_point.astype(np.int8),
        )
        for index, own in enumerate(shared)
    ]


@dataclass(frozen=True, slots=True, eq=False)
class _Shared:
    """What weights share in one format: `scale` and float32 `zero_point` as `IntegerWeight` has them.

    `row_scales` and `row_zero_points` are the same as `[groups, rows, reduced]` for blocks, else `[groups, rows, 1]`;
    then `owner` `[groups, rows]` says which scale a row takes.
    """

    format: IntegerFormat
    scale: Floats
    zero_point: Floats
    row_scales: Floats
    row_zero_points: Floats
    owner: NDArray[np.intp] | None

    @classmethod
    def of(cls, prepared: Prepared, format_: IntegerFormat, channel_axis: ChannelAxis) -> _Shared:
        if format_.symmetric:
            scale = optimal_scales(prepared.target, format_, channel_axis)
            zero_point = np.zeros_like(scale)
        else:
            scale, codes = optimal_affine(prepared.target, format_, channel_axis)
            zero_point = codes.astype(np.float32)
        owner = None if format_.block else prepared.owner(scale.shape)
        every = (spread(shared, format_, prepared.target.shape) for shared in (scale, zero_point))
        own = prepared.matrix.shape[2] if format_.block else 1
        scales, zero_points = (prepared.reduction.to_matrix(shared)[:, :, :own] for shared in every)
        return cls(format_, scale, zero_point, scales, zero_points, owner)

    def refitted(self, prepared: Prepared, moments: NDArray[np.float64]) -> Floats:
        """`scale * <w, v>_H / <v, v>_H` from both `moments` `[2, groups, rows]`, summed over what shares a scale."""
        if self.owner is not None:
            owned = ratios(moments, self.owner, self.scale.size).astype(np.float32)
            return np.asarray(self.scale * owned.reshape(self.scale.shape))
        own = ratios(moments, np.arange(moments[0].size), moments[0].size).astype(np.float32)
        by_row = np.broadcast_to(own.reshape(moments[0].shape)[:, :, None], prepared.matrix.shape)
        factors = prepared.reduction.from_matrix(by_row, prepared.target.shape)
        return round_scales(self.scale * facing(factors, self.format, self.scale.shape)[:, :1])


def ratios(moments: NDArray[np.float64], owner: NDArray[np.intp], count: int) -> NDArray[np.float64]:
    """`<w, v>_H / <v, v>_H` `[count]` of both `moments` `[2, groups, rows]`, summed over the rows of each owner.

    A scale that would all but vanish (codes against the weight in the directions that H knows) stays as it was.
    """
    product, square = (np.bincount(owner.ravel(), m.ravel(), minlength=count) for m in moments)
    ratio = np.divide(product, square, out=np.ones(count), where=square > 0)
    return np.where(ratio > _SMALLEST_RATIO, ratio, 1.0)


def round_rows(
    prepared: Prepared,
    formats: int,
    rounding: Callable[[slice], Rounding],
    refitted: Sequence[int],
    dtype: type[np.int8] | type[np.uint8],
) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Codes `[groups, formats, rows, reduced]` of the target, and `Columns.moments` `[2, groups, formats, rows]`.

    Args:
        formats: how many share the column loop.
        rounding: of the lanes of some rows in all formats.
        refitted: formats whose moments are wanted.
        dtype: of the codes.
    """
    factor, (groups, rows, reduced) = prepared.factor, prepared.matrix.shape
    codes = np.empty((groups, formats, rows, reduced), dtype=dtype)
    moments = np.empty((2, groups, formats, rows))
    for chunk in chunks(prepared.matrix.shape, formats):
        weights = np.tile(factor.sort(prepared.matrix[:, chunk]), (1, 1, formats))
        columns = round_columns(factor, weights, rounding(chunk))
        codes[:, :, chunk] = factor.unsort(columns.rounding.codes).reshape(groups, formats, -1, reduced)
        moments[:, :, :, chunk] = columns.moments(formats, refitted)
    return codes, moments


def _rounding(factor: Factor, shared: Sequence[_Shared], rows: slice) -> IntegerRounding:
    """Of the lanes of some rows in all formats."""
    scales = _lanes(factor, [own.row_scales[:, rows] for own in shared])
    lowest = _lanes(factor, [own.format.lowest_code - own.row_zero_points[:, rows] for own in shared])
    highest = _lanes(factor, [own.format.highest_code - own.row_zero_points[:, rows] for own in shared])
    zero_point = None
    if not all(own.format.symmetric for own in shared):
        zero_point = _lanes(factor, [own.row_zero_points[:, rows] for own in shared])
    return IntegerRounding(factor.order.shape[1], scales, lowest, highest, zero_point)


def _lanes(factor: Factor, formats: Sequence[Floats]) -> Floats:
    """`[groups, rows, reduced or 1]` of each format as `[groups, reduced or 1, lanes]` of all."""
    if all(own.shape[2] == 1 for own in formats):
        return np.concatenate(formats, axis=1).swapaxes(1, 2)
    shape = (*formats[0].shape[:2], factor.order.shape[1])
    return np.concatenate([factor.sort(np.broadcast_to(own, shape)) for own in formats], axis=2)

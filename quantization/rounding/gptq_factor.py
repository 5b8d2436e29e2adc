"""The Cholesky factor that GPTQ makes up for errors with, one for all formats of a weight."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import lapack

HIGHEST_DAMPING = 100.0
_PANEL = 512  # rows of a product at once
_GATHERED = 64  # rows that stay in a core's cache while their columns are put in order
_TILED = 1 << 18  # elements of a matrix beyond a core's cache
# Of H damped by d no eigenvalue is below d times its mean, nor one above `reduced` times that: condition `reduced / d`.
# At least damped so, float32 gives the factor to 1e-5 of a column (4,096 columns, d = 0.01) in half the time.
_SINGLE_DAMPING = 0.005

Floats = NDArray[np.float32]
Element = TypeVar("Element", bound=np.generic)


@dataclass(frozen=True, slots=True, eq=False)
class Factor:
    """Damped H of each group, columns in `order` (rising diagonal), as `L L'` with `L' = diagonal * upper`.

    `order` and `diagonal` are `[groups, reduced]`; `upper` `[groups, reduced, reduced]` is upper triangular with ones
    on its diagonal. `damping` is what was added to the diagonal of H, as a fraction of its mean.
    """

    order: NDArray[np.intp]
    upper: Floats
    diagonal: Floats
    damping: float

    def sort(self, matrix: NDArray[Element]) -> NDArray[Element]:
        """`[groups, rows, reduced]` as `[groups, reduced, rows]` in the factor's order."""
        groups, rows, reduced = matrix.shape
        columns = np.empty((groups, reduced, rows), dtype=matrix.dtype)
        for group, order in enumerate(self.order):
            _transposed(matrix[group]).take(order, axis=0, out=columns[group], mode="clip")  # which does not buffer
        return columns

    def unsort(self, columns: NDArray[Element]) -> NDArray[Element]:
        """The inverse of `sort`."""
        groups, reduced, rows = columns.shape
        matrix = np.empty((groups, rows, reduced), dtype=columns.dtype)
        sorted_back = np.empty_like(columns[0])
        for group, order in enumerate(self.order):
            sorted_back[order] = columns[group]
            matrix[group] = _transposed(sorted_back)
        return matrix

    def times(self, columns: Floats) -> Floats:
        """`upper @ columns`, for `[groups, reduced, lanes]`."""
        product = np.empty_like(columns)
        for start in range(0, columns.shape[1], _PANEL):
            rows = slice(start, start + _PANEL)
            np.matmul(self.upper[:, rows, start:], columns[:, start:], out=product[:, rows])
        return product

    def solve(self, matrix: NDArray[np.float64]) -> NDArray[np.float64]:
        """`matrix H**-1` of damped H, per group."""
        solved = np.empty_like(matrix)
        for group, order in enumerate(self.order):
            upper = np.multiply(self.upper[group], self.diagonal[group][:, None], dtype=np.float64)
            # transposed, both lie as LAPACK wants them, and nothing is copied
            columns, _ = lapack.dpotrs(upper.T, matrix[group].take(order, axis=1).T, lower=1, overwrite_b=1)
            solved[group][:, order] = columns.T
        return solved


def factorise(hessian: NDArray[np.float64], damping: float) -> Factor:
    """The factor of `hessian` `[groups, reduced, reduced]`, damped by `damping` times the mean of its diagonal, or by
    more where it is not positive definite then."""
    while True:
        try:
            return _factorise_at(hessian, damping)
        except np.linalg.LinAlgError:
            if damping >= HIGHEST_DAMPING:
                raise
            damping = min(10 * damping, HIGHEST_DAMPING)


def _factorise_at(hessian: NDArray[np.float64], damping: float) -> Factor:
    """The factor at exactly this damping.

    Raises:
        numpy.linalg.LinAlgError: the damped H of some group is not positive definite.
    """
    groups, reduced, _ = hessian.shape
    diagonals = np.einsum("gii->gi", hessian)
    order = np.argsort(-diagonals, axis=1, kind="stable")[:, ::-1]  # of equal columns the first is rounded first
    upper = np.empty(hessian.shape, dtype=np.float32)
    pivots = np.empty((groups, reduced), dtype=np.float32)
    for group in range(groups):
        # a group without any input has H = 0: damping alone, of any size, makes its rounding nearest
        added = damping * (diagonals[group].mean() or 1.0)
        factor = _cholesky(hessian[group], order[group], added, damping, upper[group])
        pivots[group] = factor.diagonal()
        for start in range(0, reduced, _GATHERED):
            rows = slice(start, start + _GATHERED)
            np.divide(factor[rows, start:], pivots[group, rows, None], out=upper[group, rows, start:])
            upper[group, rows, rows] = np.triu(upper[group, rows, rows])
            upper[group, rows, :start] = 0
    return Factor(order, upper, pivots, damping)


def _cholesky(
    hessian: NDArray[np.float64], order: NDArray[np.intp], added: float, damping: float, room: Floats
) -> NDArray[np.floating]:
    """Upper triangle L' of H, columns in `order`, `added` on its diagonal; what is below it is arbitrary.

    `room`, of the same shape, is what float32 works in.
    """
    for single in (True, False) if damping >= _SINGLE_DAMPING else (False,):
        damped: NDArray[Any] = room if single else np.empty_like(hessian)
        for start in range(0, len(order), _GATHERED):
            rows = hessian.take(order[start : start + _GATHERED], axis=0)
            damped[start : start + _GATHERED, start:] = rows.take(order[start:], axis=1)
        damped[np.diag_indices(len(order))] += damped.dtype.type(added)
        potrf = lapack.spotrf if single else lapack.dpotrf
        lower, info = potrf(damped.T, lower=1, clean=0, overwrite_a=1)
        if info == 0:
            return np.asarray(lower.T)
    raise np.linalg.LinAlgError(f"the leading {info} columns of H are not positive definite")


def _transposed(matrix: NDArray[Element]) -> NDArray[Element]:
    """The transpose of a matrix of any strides, contiguous.

    Of a large one by torch, whose copy goes through tiles and takes half the time; it wants memory that may be
    written, with strides above 0.
    """
    if matrix.size < _TILED:
        return np.ascontiguousarray(matrix.T)
    transposed: NDArray[Element] = torch.from_numpy(np.array(matrix, order="K")).T.contiguous().numpy()
    return transposed

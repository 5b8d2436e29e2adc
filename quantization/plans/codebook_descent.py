"""Coordinate descent on a codebook: every code once more given all others and the tables, then the tables again.

As in `quantization.plans.coordinate_descent` each value v of a row takes, with all others as they are, the best that it
may: with d = v - w and the error `d H d'`

    v_j  <-  nearest of the row's table to  v_j - (d H)_j / H_jj

and one that is kept beside the tables takes that number itself. After every sweep each table becomes that of least
error for its codes: where row l of C says which values use entry l, the entries move by the solution t of
`(C H C') t = -C (H d')`, and are then rounded to float16. Entries that no value uses stay.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantization.plans.coordinate_descent import SWEEPS, Doubles, sweep
from quantization.rounding.codebook_tables import LARGEST, folded_tables, nearest_places
from quantization.rounding.reduction import Reduction
from quantization.rounding.tiles import parts
from quantization.storage.codebooks import CodebookWeight, table_numbers

_AT_ONCE = 1 << 21  # elements of `[rows, levels, reduced]`


def row_tables(weight: CodebookWeight, reduction: Reduction) -> NDArray[np.int32] | None:
    """Which table `[groups, rows]` every row takes, counted through `[outer, inner]` of `weight.table`; None where one
    output sums over values of several tables."""
    return reduction.by_row(table_numbers(weight.table.shape, weight.shape))


def codebook_descent(
    start: CodebookWeight,
    target: NDArray[np.floating[Any]],
    hessian: Doubles,
    reduction: Reduction,
    sweeps: int = SWEEPS,
    check: Callable[[], None] = lambda: None,
) -> CodebookWeight:
    """`start` with codes, tables and kept values whose error `d H d'` is in no row above its own.

    Where rows have several tables each it is `start` itself.

    Args:
        start: which weights are kept stays.
        target: the values w that are approached, `[groups, rows, reduced]`.
        hessian: H, `[groups, reduced, reduced]`, positive definite.
        reduction: how the layer sees the weight.
        sweeps: at most; it ends earlier when nothing changes any more.
        check: called for every block of columns; what it raises ends the work.
    """
    owner = row_tables(start, reduction)
    if sweeps < 1 or owner is None:
        return start
    half = start.table.shape[1] // 2
    flat = np.moveaxis(start.table, 1, 2).reshape(-1, 2 * half).astype(np.float64)
    tables = np.sort(flat, axis=1)[owner]
    mask = np.zeros(start.shape, dtype=np.bool_)
    mask.flat[start.positions] = True
    kept = reduction.to_matrix(mask)
    aims = target / start.factor.astype(np.float64)
    values = reduction.to_matrix(start.dequantize()) / start.factor.astype(np.float64)
    for group, moments in enumerate(hessian):
        rows = _Rows(tables[group], values[group], kept[group])
        tables[group], values[group] = rows.descended(aims[group], moments, sweeps, check)
    codes = np.stack([nearest_places(at, own) for own, at in zip(tables, values, strict=True)])
    descended = np.empty_like(flat)
    descended[owner] = tables
    every = reduction.from_matrix(values, start.shape).ravel()[start.positions] * start.factor
    return replace(
        start,
        codes=reduction.from_matrix(codes.astype(np.int8) - np.int8(half), start.shape),
        table=folded_tables(descended, start.table.shape),
        values=every.astype(np.float32),
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Rows:
    """The rows of a group: `tables` `[rows, levels]`, rising, of float16 numbers, `values` and what is `kept` beside
    them `[rows, reduced]`."""

    tables: Doubles
    values: Doubles
    kept: NDArray[np.bool_]

    def descended(
        self, target: Doubles, hessian: Doubles, sweeps: int, check: Callable[[], None]
    ) -> tuple[Doubles, Doubles]:
        """Tables and values, of each row the best that was met."""
        tables, values = self.tables.copy(), self.values.copy()
        slopes = (values - target) @ hessian
        units = np.broadcast_to(1.0, values.shape)
        best, best_tables, best_values = _errors(values - target, slopes), tables.copy(), values.copy()
        for _ in range(sweeps):

            def nearest(columns: slice, wanted: Doubles, tables: Doubles = tables) -> Doubles:
                at = np.take_along_axis(tables, nearest_places(wanted, tables).astype(np.intp), axis=1)
                return np.where(self.kept[:, columns], wanted, at)

            moved = sweep(values, slopes, units, hessian, nearest, check)
            tables = self._refit(tables, values, slopes, hessian)
            errors = _errors(values - target, slopes)
            better = errors < best
            best[better], best_tables[better], best_values[better] = errors[better], tables[better], values[better]
            if not moved:
                break
        return best_tables, best_values

    def _refit(self, tables: Doubles, values: Doubles, slopes: Doubles, hessian: Doubles) -> Doubles:
        """The tables of least error for the places that `values` have in `tables`; `values` and `slopes` follow."""
        refitted = np.empty_like(tables)
        levels = np.arange(tables.shape[1])
        unit = hessian.diagonal().mean()
        moments = (hessian / unit).astype(np.float32)
        for part in parts(len(values), tables.shape[1] * values.shape[1], _AT_ONCE):
            places = nearest_places(values[part], tables[part]).astype(np.intp)
            places[self.kept[part]] = -1
            uses = (places[:, None] == levels[:, None]).astype(np.float32)  # [rows, levels, reduced]
            images = (uses.reshape(-1, len(moments)) @ moments).reshape(uses.shape)  # far faster than row by row
            system = (images @ uses.mT).astype(np.float64)
            system[:, levels, levels] += ~uses.any(axis=2)  # an entry that nothing uses
            slope = uses @ (slopes[part, :, None] / unit)
            wanted = tables[part] - np.linalg.solve(system, slope)[:, :, 0]
            rounded = wanted.clip(-LARGEST, LARGEST).astype(np.float16).astype(np.float64)
            moves = ((rounded - tables[part])[:, None] @ uses)[:, 0]
            values[part] += moves
            slopes[part] += moves @ hessian
            refitted[part] = np.sort(rounded, axis=1)
        return refitted


def _errors(deltas: Doubles, slopes: Doubles) -> Doubles:
    """`d H d'` of each row."""
    return np.asarray(np.einsum("rk,rk->r", deltas, slopes))

"""GPTQ of codebooks, with tables that are fitted to the layer's inputs, too.

    tables       k-means, each weight's error counted by the diagonal of H (`quantization.rounding.codebook_tables`)
    codes        GPTQ to these tables; a weight kept beside them makes up for all errors so far (`rounding.gptq`)
    tables       of least error `|U (v - w)|**2` for these codes, `H = U' U` [ours]

Codes and tables are found once more from there; of the two ends a row takes the one of less error.

For fixed codes the values v are linear in a row's table: least squares in `2**bits` numbers. Conjugate gradients from
the table at hand solve it for all rows at once, two products with U a step; entries that no weight uses stay.

ResNet20 (1,500 evaluation images, KL divergence from the float outputs at 2 bits): .216 with tables of least squared
error that stay, .172 with those of the diagonal of H, .119 fitted to the codes, .111 found twice, .109 three times.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from network.graph import ChannelAxis
from quantization.formats import CodebookFormat
from quantization.rounding.codebook_tables import LARGEST, FittedTables, codebook, fit_tables, power_of_two
from quantization.rounding.gptq import Prepared
from quantization.rounding.gptq_columns import Columns, Floats, chunks, round_columns
from quantization.rounding.gptq_factor import Factor
from quantization.rounding.gptq_grids import GridRounding
from quantization.storage.codebooks import CodebookWeight

_ROUNDS = 2
_MOST_STEPS = 8  # of conjugate gradients

Doubles = NDArray[np.float64]


def codebook_gptq(
    prepared: Prepared,
    formats: Sequence[CodebookFormat],
    channel_axis: ChannelAxis,
    check: Callable[[], None] = lambda: None,
) -> list[CodebookWeight]:
    """The target of `prepared` (`quantization.rounding.gptq.prepare`) in each of `formats`, rounded by GPTQ.

    Where the weights that one output sums over lie in several tables (a ConvTranspose of two input channels) each value
    is rounded by itself, to tables for the diagonal of H.

    Args:
        channel_axis: axis of the output channels.
        check: called before each format; what it raises ends the work.

    Raises:
        ValueError: a weight that does not fold (`quantization.granularity`).
    """
    importance = _importance(prepared)
    unit = power_of_two(prepared.target)
    scaled = replace(prepared, target=prepared.target / unit, matrix=prepared.matrix / unit)
    weights = []
    for format_ in formats:
        check()
        fitted = fit_tables(scaled.target, format_, channel_axis, importance)
        channel = prepared.reduction.by_row(fitted.channels())
        if channel is None:
            weights.append(codebook(prepared.target, format_, channel_axis, importance))
        else:
            weights.append(_round(scaled, fitted, format_, channel, unit))
    return weights


def _importance(prepared: Prepared) -> Floats:
    """The diagonal of damped H for every weight, in the weight's shape."""
    factor = prepared.factor
    columns = np.square(factor.diagonal[:, :, None] * factor.upper).sum(axis=1)[:, :, None]
    spread = np.broadcast_to(factor.unsort(columns), prepared.matrix.shape)
    return prepared.reduction.from_matrix(spread, prepared.target.shape)


def _round(
    prepared: Prepared, fitted: FittedTables, format_: CodebookFormat, channel: NDArray[np.int32], unit: Floats
) -> CodebookWeight:
    """The target, times `unit`, at tables that begin as those of `fitted`, `channel` `[groups, rows]` saying which a
    row takes."""
    reduction, factor, shape = prepared.reduction, prepared.factor, prepared.target.shape
    tables = np.empty_like(fitted.tables)
    codes = np.empty(prepared.matrix.shape, dtype=np.uint8)
    values = np.empty(prepared.matrix.shape, dtype=np.float32)
    kept = reduction.to_matrix(fitted.kept_mask())
    for rows in chunks(prepared.matrix.shape, 1):
        weights = factor.sort(prepared.matrix[:, rows])
        stays = factor.sort(kept[:, rows])
        lanes = _round_lanes(factor, weights, fitted.tables[channel[:, rows]], stays)
        for _ in range(_ROUNDS - 1):
            lanes = lanes.or_where_better(_round_lanes(factor, weights, np.sort(lanes.tables, axis=2), stays))
        tables[channel[:, rows]] = lanes.tables
        codes[:, rows] = factor.unsort(lanes.codes)
        values[:, rows] = factor.unsort(weights + lanes.deltas)
    places, kept_values = reduction.from_matrix(codes, shape), reduction.from_matrix(values, shape)
    return fitted.weight(format_, tables, places, kept_values, unit)


@dataclass(frozen=True, slots=True, eq=False)
class _Rounded:
    """Lanes (rows of a chunk) at `tables` `[groups, lanes, levels]`, in no order, of float16 numbers.

    `codes` and `deltas` (`value - weight`) are `[groups, reduced, lanes]`, `errors` `|U deltas|**2` `[groups, lanes]`.
    """

    tables: Floats
    codes: NDArray[np.uint8]
    deltas: Floats
    errors: Floats

    def or_where_better(self, other: _Rounded) -> _Rounded:
        better = other.errors < self.errors
        return _Rounded(
            np.where(better[:, :, None], other.tables, self.tables),
            np.where(better[:, None], other.codes, self.codes),
            np.where(better[:, None], other.deltas, self.deltas),
            np.minimum(other.errors, self.errors),
        )


def _round_lanes(factor: Factor, weights: Floats, tables: Floats, kept: NDArray[np.bool_]) -> _Rounded:
    """`weights` `[groups, reduced, lanes]` at tables that begin as `tables`, ascending, and `kept` ones beside."""
    rounding = GridRounding(tables, weights.shape[1])
    columns = round_columns(factor, weights, rounding, kept if kept.any() else None)
    return _refitted(factor, _Entries(rounding.codes, kept, tables.shape), tables, columns)


class _Entries:
    """Which entry of its table, of `shape` `[groups, lanes, levels]`, every weight uses; none where it is `kept`."""

    def __init__(self, codes: NDArray[np.integer], kept: NDArray[np.bool_], shape: tuple[int, ...]) -> None:
        groups, lanes, levels = self._shape = shape
        first = np.arange(groups * lanes).reshape(groups, 1, lanes) * levels
        self._places = np.where(kept, groups * lanes * levels, first + codes)  # in the flat tables, or behind their end

    def spread(self, tables: NDArray[np.floating]) -> Floats:
        """For every weight its entry; 0 for one that uses none."""
        return np.append(tables, 0).astype(np.float32)[self._places]

    def sums(self, values: Floats) -> Doubles:
        """Over all weights that use an entry, `[groups, lanes, levels]`."""
        size = math.prod(self._shape)
        sums = np.bincount(self._places.ravel(), values.ravel(), size + 1)[:size]
        return np.asarray(sums, dtype=np.float64).reshape(self._shape)


def _refitted(factor: Factor, entries: _Entries, tables: Floats, columns: Columns) -> _Rounded:
    """What `columns` were rounded to, at the tables of least error for these codes, by conjugate gradients."""
    scales = np.square(factor.diagonal)[:, :, None]
    U, D = factor.upper, columns.deltas
    squares = np.square(factor.diagonal[:, :, None] * U).sum(axis=1)[:, :, None]
    own = entries.sums(np.broadcast_to(squares, D.shape))  # by which the search is scaled
    residual = -entries.sums(U.mT @ (scales * (U @ D)))
    moved = np.zeros(tables.shape)
    step, last = np.zeros(tables.shape), None
    for _ in range(min(_MOST_STEPS, tables.shape[2])):
        scaled = _ratio(residual, own)
        square = (residual * scaled).sum(axis=2, keepdims=True)
        step = scaled if last is None else scaled + _ratio(square, last) * step
        product = entries.sums(U.mT @ (scales * (U @ entries.spread(step))))
        length = _ratio(square, (step * product).sum(axis=2, keepdims=True))
        moved += length * step
        residual -= length * product
        last = square
    refitted = (tables + moved).clip(-LARGEST, LARGEST).astype(np.float16).astype(np.float32)
    deltas: Floats = D + entries.spread(refitted) - entries.spread(tables)
    errors = (scales * np.square(U @ deltas)).sum(axis=1)
    return _Rounded(refitted, np.asarray(columns.rounding.codes, dtype=np.uint8), deltas, errors)


def _ratio(dividend: Doubles, divisor: Doubles) -> Doubles:
    """0 where the divisor is: an entry without weights, or a table that is best already."""
    return np.divide(dividend, divisor, out=np.zeros_like(dividend), where=divisor > 0)

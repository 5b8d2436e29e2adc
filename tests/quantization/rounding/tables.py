"""GPTQ to any tables of values, with weights that are kept beside them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quantization.rounding.gptq import Prepared, ratios
from quantization.rounding.gptq_columns import round_columns
from quantization.rounding.gptq_grids import GridRounding


@dataclass(frozen=True)
class OnTables:
    """`codes` (places in the tables) and `values` in the weight's shape; `factors` `[channels]` is by how much each
    table would best be multiplied for these codes."""

    codes: NDArray[np.uint8]
    values: NDArray[np.float32]
    factors: NDArray[np.float32]


def gptq_to_tables(
    prepared: Prepared, tables: NDArray[np.float32], channel_axis: int, kept: NDArray[np.bool_] | None = None
) -> OnTables:
    """The target of `prepared` at `tables` `[channels, levels]`, which rise, but for the weights that are kept."""
    shape, reduction, factor = prepared.target.shape, prepared.reduction, prepared.factor
    owner = prepared.owner(tuple(n if axis == channel_axis else 1 for axis, n in enumerate(shape)))
    mask = None if kept is None else factor.sort(reduction.to_matrix(kept))
    weights = factor.sort(prepared.matrix)
    columns = round_columns(factor, weights, GridRounding(tables[owner], weights.shape[1]), mask)
    codes = factor.unsort(np.asarray(columns.rounding.codes, dtype=np.uint8))
    values = factor.unsort(weights + columns.deltas)
    exact = np.take_along_axis(tables[owner], codes.astype(np.intp), axis=2)
    stays = np.zeros(values.shape, dtype=np.bool_) if kept is None else reduction.to_matrix(kept)
    np.testing.assert_allclose(values[~stays], exact[~stays], rtol=1e-5, atol=1e-6)
    factors = ratios(columns.moments(1, [0])[:, :, 0], owner, len(tables)).astype(np.float32)
    values = np.where(stays, values, exact)
    return OnTables(reduction.from_matrix(codes, shape), reduction.from_matrix(values, shape), factors)

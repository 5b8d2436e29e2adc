"""Interactions between candidates, and means over batches with their standard errors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Interactions:
    """`matrix` `[K, K]` is C, so that `1/2 x' C x` is the damage of the plan x; `stderr` its standard error.

    `C_ij` is how much more (or less) two candidates cost together than alone; `C_ii` is twice the damage of one alone.
    No plan holds two candidates of one site; what stands between them depends on the method.
    """

    matrix: FloatArray
    stderr: FloatArray
    samples: int

    @property
    def damage(self) -> FloatArray:
        """Each candidate's damage alone, `[K]`."""
        return np.diagonal(self.matrix) / 2


def mean_and_stderr(sums: Sequence[FloatArray], counts: Sequence[int]) -> tuple[FloatArray, FloatArray]:
    """The mean over samples, and its standard error, of what is known as sums over batches only.

    `sums` are `[batches]` arrays of any one shape, `counts` the samples in each. With `mean = sum S_b / sum n_b` the
    standard error is the root of `m / (m - 1) sum (S_b - n_b mean)^2 / (sum n_b)^2`, that of m independent batches; it
    is infinite for a single one, whose spread nobody knows.
    """
    stacked, sizes = np.stack(sums), np.array(counts, dtype=np.float64)
    mean = np.asarray(stacked.sum(0) / sizes.sum())
    batches = len(stacked)
    if batches == 1:
        return mean, np.full_like(mean, math.inf)
    spread = np.square(stacked - np.multiply.outer(sizes, mean)).sum(0)
    return mean, np.asarray(np.sqrt(batches / (batches - 1) * spread) / sizes.sum())

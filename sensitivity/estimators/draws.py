"""Means with standard errors of what comes in one micro-batch at a time."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


class Draws:
    """The mean over samples of one quantity for each candidate, in float64 and in constant memory.

    What cannot be told apart by samples comes as one sum over several of them, a *unit*; the standard error is that of
    independent units, each weighted by the samples that it speaks for. A candidate that never got a draw has the mean
    NaN; one with a single unit has an infinite standard error, since nothing is known about its spread.
    """

    def __init__(self, candidates: int) -> None:
        self._units = np.zeros(candidates)
        self._weight = np.zeros(candidates)
        self._weight_square = np.zeros(candidates)
        self._sum = np.zeros(candidates)
        self._weighted = np.zeros(candidates)  # sum of weight^2 * draw = weight * (sum of the unit)
        self._square = np.zeros(candidates)  # sum of weight^2 * draw^2 = (sum of the unit)^2

    def add(self, candidate: int, sums: Tensor | NDArray[np.generic], samples: int) -> None:
        """`sums` `[units]`, each over the `samples / units` samples of its unit."""
        values = sums.detach().double().cpu().numpy() if isinstance(sums, Tensor) else sums.astype(np.float64)
        weight = samples / len(values)
        self._units[candidate] += len(values)
        self._weight[candidate] += samples
        self._weight_square[candidate] += weight * samples
        self._sum[candidate] += values.sum()
        self._weighted[candidate] += weight * values.sum()
        self._square[candidate] += np.square(values).sum()

    def mean_and_stderr(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Both `[candidates]`: `sum w x / sum w`, and the root of `m / (m - 1) sum w^2 (x - mean)^2 / (sum w)^2`."""
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = self._sum / self._weight
            spread = np.maximum(self._square - 2 * mean * self._weighted + mean**2 * self._weight_square, 0.0)
            variance = spread / self._weight**2 * self._units / (self._units - 1)
        return mean, np.where(self._units == 1, math.inf, np.sqrt(variance))

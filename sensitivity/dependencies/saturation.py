"""Saturation: damages measured one at a time overcount once much is quantized.

A network that is already damaged has less to lose. With damages D_i, each measured alone, and a ceiling c,

    f(S) = c (1 - prod_{i in S} (1 - a_i)),         a_i = D_i / c

(arXiv 2607.12266): a share a_i is lost of what the others left. The terms `b_i = -c log(1 - a_i) = D_i + O(D_i^2 / c)`
add up, and `f = c (1 - exp(-sum b_i / c))` is a monotone map of their sum. So a search over additive scores may
minimise the sum of the b_i, whose order is that of f, and the map turns the result into damage; the same map serves a
prediction with interactions, `x' G x` in the place of the sum. `c = infinity` is the additive model. What grows faster
than its sum this form cannot express: there the ceiling is infinite, and `Saturation.explained` says how much is left.

The ceiling is fitted to plans that were really evaluated, with relative residuals `(f - measured) / measured` (why: see
`sensitivity.dependencies.augmented`), over `1/c` in `[0, 1 / max D_i)`: a grid, then Brent's method between the
neighbours of its best point, since the residuals need not have a single minimum.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize_scalar

from sensitivity.dependencies.augmented import PlanArray, require_positive
from sensitivity.dependencies.interactions import FloatArray

_GRID = 200
# of the range of 1/c: at its very end the largest damage would be the whole ceiling, and its term infinite
_LARGEST_SHARE = 0.999


@dataclass(frozen=True)
class Saturation:
    """The fitted ceiling, in units of the loss (infinite where nothing saturates), from so many `plans`.

    `relative_error` is the root mean square of the relative residuals. Of the variance of the measured damages
    `explained` is the share that the map explains, `1 - residual / total` (negative where it does worse than their
    mean), and `explained_by_sum` the share that the plain sum or prediction explains with the best line through it.
    """

    ceiling: float
    relative_error: float
    explained: float
    explained_by_sum: float
    plans: int

    def term(self, damage: FloatArray) -> FloatArray:
        """`b = -c log(1 - D/c)`: what adds up, for damages measured alone, each below the ceiling; of any shape.

        Raises:
            ValueError: a damage is not below the ceiling.
        """
        if not np.all(damage < self.ceiling):
            raise ValueError(f"a damage of {np.max(damage):g} is not below the ceiling {self.ceiling:g}; refit with it")
        return _terms(damage, 1 / self.ceiling)

    def damage(self, total: FloatArray) -> FloatArray:
        """`c (1 - exp(-x/c))`: the damage where terms sum to x, or where x was predicted; of any shape."""
        return _saturated(total, 1 / self.ceiling)


def fit_saturation(own: FloatArray, plans: PlanArray, measured: FloatArray) -> Saturation:
    """The ceiling of damages measured one at a time: `f(S)` of every plan against what was measured.

    Args:
        own: damage of each candidate alone, `[K]`, not negative; all K bound the ceiling from below.
        plans: the places of the S candidates of each plan among the K, `[P, S]`.
        measured: damage of each plan, `[P]`, above 0.

    Raises:
        ValueError: own damage is negative or not finite, or a measured one is not positive.
    """
    if np.any(own < 0) or not np.isfinite(own).all():
        raise ValueError("own damage is negative or not finite; expected damages that were measured alone")
    require_positive(measured, len(plans))
    largest = _LARGEST_SHARE / float(own.max()) if own.max() > 0 else 0.0
    return _fit(lambda inverse: _terms(own, inverse)[plans].sum(1), largest, measured)


def fit_saturation_of_predictions(predicted: FloatArray, measured: FloatArray) -> Saturation:
    """The ceiling of predictions of whole plans, `[P]`: `c (1 - exp(-predicted / c))` against what was measured.

    Raises:
        ValueError: a prediction is negative or not finite, or a measured damage is not positive.
    """
    if np.any(predicted < 0) or not np.isfinite(predicted).all():
        raise ValueError("a predicted damage is negative or not finite; expected damages")
    require_positive(measured, len(predicted))
    # a ceiling below the largest measured damage contradicts it
    return _fit(lambda _inverse: predicted, 1 / float(measured.max()), measured)


def _fit(total: Callable[[float], FloatArray], largest: float, measured: FloatArray) -> Saturation:
    """`total` gives the sum of every plan's terms at `1/c`, which is sought in `[0, largest]`."""

    def mapped(inverse: float) -> FloatArray:
        return _saturated(total(inverse), inverse)

    def loss(inverse: float) -> float:
        return float(np.mean(np.square(mapped(inverse) / measured - 1)))

    grid = np.linspace(0.0, largest, _GRID) if largest > 0 else np.zeros(1)
    losses = np.array([loss(float(inverse)) for inverse in grid])
    best = int(losses.argmin())
    inverse = float(grid[best])
    if len(grid) > 1:
        bracket = (float(grid[max(best - 1, 0)]), float(grid[min(best + 1, _GRID - 1)]))
        refined = minimize_scalar(loss, bounds=bracket, method="bounded", options={"xatol": 1e-9 * largest})
        inverse = float(refined.x) if refined.fun < losses[best] else inverse
    residual = mapped(inverse) - measured
    variance = float(np.square(measured - measured.mean()).sum())
    return Saturation(
        ceiling=1 / inverse if inverse > 0 else math.inf,
        relative_error=math.sqrt(loss(inverse)),
        explained=1 - float(residual @ residual) / variance if variance > 0 else math.nan,
        explained_by_sum=_squared_correlation(total(0.0), measured),
        plans=len(measured),
    )


def _terms(damage: FloatArray, inverse: float) -> FloatArray:
    """`-log(1 - u D) / u` with `u = 1/c`, and its limit D at 0."""
    return np.asarray(-np.log1p(-inverse * damage) / inverse if inverse > 0 else damage, dtype=np.float64)


def _saturated(total: FloatArray, inverse: float) -> FloatArray:
    """`(1 - exp(-u x)) / u` with `u = 1/c`, and its limit x at 0."""
    return np.asarray(-np.expm1(-inverse * total) / inverse if inverse > 0 else total, dtype=np.float64)


def _squared_correlation(one: FloatArray, other: FloatArray) -> float:
    """Of two things that vary; NaN where one does not."""
    x, y = one - one.mean(), other - other.mean()
    scale = float((x @ x) * (y @ y))
    return float(x @ y) ** 2 / scale if scale > 0 else math.nan

"""Saturation: damages measured one at a time overcount once much is quantized. Or undercount, where they compound.

A network that is already damaged has less to lose. With damages D_i, each measured alone, and a ceiling c,

    f(S) = c (1 - prod_{i in S} (1 - a_i)),         a_i = D_i / c

(arXiv 2607.12266): a share a_i is lost of what the others left. The terms `b_i = -c log(1 - a_i) = D_i + O(D_i^2 / c)`
add up, and `f = c (1 - exp(-sum b_i / c))` is a monotone map of their sum. So a search over additive scores may
minimise the sum of the b_i, whose order is that of f, and the map turns the result into damage; the same map serves a
prediction with interactions, `x' G x` in the place of the sum. `c = infinity` is the additive model.

Beyond the paper [ours]: the form goes on to the other side of additive. With a negative c it is
`|c| (prod (1 + D_i / |c|) - 1)`: each candidate costs more the more the others have cost, as the KL divergence does
before it saturates (it has no upper bound that a network would soon reach). So the parameter is the *rate* `u = 1/c`:
above 0 damage saturates, at 0 it adds up, below 0 it compounds.

The rate is fitted to plans that were really evaluated, with relative residuals `(f - measured) / measured` (why: see
`sensitivity.dependencies.augmented`), below `1 / max D_i`: a grid, then Brent's method between the neighbours of its
best point, since the residuals need not have a single minimum.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize_scalar

from sensitivity.dependencies.augmented import PlanArray, require_positive
from sensitivity.dependencies.interactions import FloatArray

_GRID = 400
# of the range of 1/c: at its very end the largest damage would be the whole ceiling, and its term infinite
_LARGEST_SHARE = 0.999
# the most negative rate, times the largest sum of terms: there the map makes 2000 of 1, which no damage needs
_STEEPEST = 10.0


@dataclass(frozen=True)
class Saturation:
    """The fitted map, from so many `plans`.

    `rate` is `1/c`: above 0 damages saturate, below 0 they compound. `ceiling` is c in units of the loss, infinite
    where nothing saturates. `relative_error` is the root mean square of the relative residuals. Of the variance of the
    measured damages `explained` is the share that the map explains, `1 - residual / total` (negative where it does
    worse than their mean), and `explained_by_sum` the share that the plain sum or prediction explains with the best
    line through it.
    """

    rate: float
    ceiling: float
    relative_error: float
    explained: float
    explained_by_sum: float
    plans: int


def fit_saturation(own: FloatArray, plans: PlanArray, measured: FloatArray) -> Saturation:
    """The map of damages measured one at a time: `f(S)` of every plan against what was measured.

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
    """The map of predictions of whole plans, `[P]`: `c (1 - exp(-predicted / c))` against what was measured.

    Raises:
        ValueError: a prediction is negative or not finite, or a measured damage is not positive.
    """
    if np.any(predicted < 0) or not np.isfinite(predicted).all():
        raise ValueError("a predicted damage is negative or not finite; expected damages")
    require_positive(measured, len(predicted))
    # a ceiling below the largest measured damage contradicts it
    return _fit(lambda _inverse: predicted, 1 / float(measured.max()), measured)


def _fit(total: Callable[[float], FloatArray], largest: float, measured: FloatArray) -> Saturation:
    """`total` gives the sum of every plan's terms at a rate, which is sought up to `largest`."""

    def loss(rate: float) -> float:
        return float(np.mean(np.square(_mapped(total(rate), rate) / measured - 1)))

    plain = total(0.0)
    lowest = -_STEEPEST / float(plain.max()) if plain.max() > 0 else 0.0
    grid = np.unique(np.concatenate([np.linspace(lowest, 0, _GRID // 2), np.linspace(0, largest, _GRID // 2)]))
    losses = np.array([loss(float(rate)) for rate in grid])
    best = int(losses.argmin())
    rate = float(grid[best])
    if len(grid) > 1:
        bracket = (float(grid[max(best - 1, 0)]), float(grid[min(best + 1, len(grid) - 1)]))
        tolerance = 1e-9 * (bracket[1] - bracket[0])
        refined = minimize_scalar(loss, bounds=bracket, method="bounded", options={"xatol": tolerance})
        rate = float(refined.x) if refined.fun < losses[best] else rate
    residual = _mapped(total(rate), rate) - measured
    variance = float(np.square(measured - measured.mean()).sum())
    return Saturation(
        rate=rate,
        ceiling=1 / rate if rate > 0 else math.inf,
        relative_error=math.sqrt(loss(rate)),
        explained=1 - float(residual @ residual) / variance if variance > 0 else math.nan,
        explained_by_sum=_squared_correlation(plain, measured),
        plans=len(measured),
    )


def _terms(damage: FloatArray, rate: float) -> FloatArray:
    """`-log(1 - u D) / u`, and its limit D at rate 0."""
    return np.asarray(-np.log1p(-rate * damage) / rate if rate else damage, dtype=np.float64)


def _mapped(total: FloatArray, rate: float) -> FloatArray:
    """`(1 - exp(-u x)) / u`, and its limit x at rate 0."""
    return np.asarray(-np.expm1(-rate * total) / rate if rate else total, dtype=np.float64)


def _squared_correlation(one: FloatArray, other: FloatArray) -> float:
    """Of two things that vary; NaN where one does not."""
    x, y = one - one.mean(), other - other.mean()
    scale = float((x @ x) * (y @ y))
    return float(x @ y) ** 2 / scale if scale > 0 else math.nan

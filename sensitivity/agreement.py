"""Which method to trust on this network: predicted against measured damage over random plans.

Public comparisons disagree about the best estimator because it differs from network to network, and with the rounding.
So some twenty random plans are really run, and every method says what it would have predicted. Two things count: the
order (Spearman's rank correlation), because a search only compares plans, and calibration (the geometric mean of
measured over predicted, and how far single plans stray from it), because the damage of a plan is shown to people.

Twenty plans say little about small differences, and the best of ten methods on them is partly the luckiest. Hence
`choose` keeps the preferred method unless another one is better beyond doubt: both are compared on the same resampled
plans (a paired bootstrap, Efron 1979), and the other must win in at least `CERTAINTY` of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

Floats = NDArray[np.float64]

RESAMPLES = 2000
LEVEL = 0.95
CERTAINTY = 0.95
FEWEST_PLANS = 8


@dataclass(frozen=True, eq=False)
class Agreement:
    """How well one method's predictions fit the measured damage of the same plans.

    `spearman` lies in `low` to `high` with a level of 95 % (percentile bootstrap over plans). `ratio` is the geometric
    mean of measured over predicted damage, 1 if calibrated; `spread` the factor by which single plans stray from that,
    1 if none does (the exponential of the standard deviation of the logarithms). Both are NaN where a prediction is
    not positive.
    """

    method: str
    spearman: float
    low: float
    high: float
    ratio: float
    spread: float


def random_plans(counts: Sequence[int], plans: int, seed: int) -> NDArray[np.int64]:
    """[P, S]: plans that take one of each site's candidates, each with the same chance; flat candidate indices.

    Args:
        counts: candidates of each site.
        plans: how many; repetitions are possible where there are few candidates.
        seed: of the draws.
    """
    generator = np.random.default_rng(seed)
    offsets = np.concatenate([[0], np.cumsum(counts)[:-1]]).astype(np.int64)
    return np.asarray(offsets + generator.integers(counts, size=(plans, len(counts))), dtype=np.int64)


def agreement(method: str, predicted: Floats, measured: Floats, seed: int = 0) -> Agreement:
    """How `predicted` [P] and `measured` [P] agree.

    Raises:
        ValueError: different lengths, fewer than `FEWEST_PLANS` plans, or numbers that are not finite.
    """
    _check(predicted, measured)
    resampled = _correlations(predicted, measured, _resamples(len(measured), seed))
    low, high = np.quantile(resampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    ratio = spread = math.nan
    if (predicted > 0).all() and (measured > 0).all():
        logarithms = np.log(measured) - np.log(predicted)
        ratio, spread = math.exp(logarithms.mean()), math.exp(logarithms.std(ddof=1))
    return Agreement(method, _spearman(predicted, measured), float(low), float(high), ratio, spread)


def choose(predictions: Sequence[tuple[str, Floats]], measured: Floats, seed: int = 0) -> str:
    """The method to use: the first of `predictions`, unless another orders the plans better beyond doubt.

    Of several that do, the one with the highest rank correlation; of equal ones the first.

    Args:
        predictions: method and predicted damage [P], the preferred method first.
        measured: [P].
        seed: of the resampling.
    """
    for _, predicted in predictions:
        _check(predicted, measured)
    resamples = _resamples(len(measured), seed)
    preferred, *others = predictions
    least = _correlations(preferred[1], measured, resamples)
    better = [
        (name, predicted)
        for name, predicted in others
        if (_correlations(predicted, measured, resamples) > least).mean() >= CERTAINTY
    ]
    return max(better, key=lambda method: _spearman(method[1], measured), default=preferred)[0]


def _check(predicted: Floats, measured: Floats) -> None:
    if predicted.shape != measured.shape or measured.ndim != 1:
        raise ValueError(f"one prediction for each measured plan is needed, got {predicted.shape} and {measured.shape}")
    if len(measured) < FEWEST_PLANS:
        raise ValueError(f"agreement needs at least {FEWEST_PLANS} plans to mean anything, got {len(measured)}")
    if not (np.isfinite(predicted).all() and np.isfinite(measured).all()):
        raise ValueError(
            "predicted and measured damages must be finite; leave out a method that does not cover every site"
        )


def _resamples(plans: int, seed: int) -> NDArray[np.int64]:
    """[RESAMPLES, P]: indices of plans drawn with replacement."""
    return np.random.default_rng(seed).integers(plans, size=(RESAMPLES, plans))


def _spearman(predicted: Floats, measured: Floats) -> float:
    return float(_correlations(predicted, measured, np.arange(len(measured))[None])[0])


def _correlations(predicted: Floats, measured: Floats, chosen: NDArray[np.int64]) -> Floats:
    """Spearman's rank correlation on each row of plans; 0 where all of a row is one tie."""
    x, y = (rankdata(values[chosen], axis=1) for values in (predicted, measured))
    x, y = x - x.mean(1, keepdims=True), y - y.mean(1, keepdims=True)
    norm = np.sqrt((x * x).sum(1) * (y * y).sum(1))
    return np.asarray(np.divide((x * y).sum(1), norm, out=np.zeros(len(norm)), where=norm > 0))

"""Confidence intervals for a drop, from paired samples.

All are two-sided and equal-tailed: at level 0.95 each end is missed with a chance of about 2.5 %.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import beta, norm

_RESAMPLES = 4000
_TAIL_RESAMPLES = 50  # at least so many resamples beyond each end
_CHUNK_ELEMENTS = 1 << 21
_TOLERANCE = 1e-12


@dataclass(frozen=True, slots=True)
class Interval:
    """`low <= truth <= high` with confidence `level`; `method` names how it was computed."""

    low: float
    high: float
    level: float
    method: str

    def __post_init__(self) -> None:
        _check_level(self.level)
        if not self.low <= self.high:
            raise ValueError(f"an interval needs low <= high, got {self.low} and {self.high}")


def proportion_interval(count: int, samples: int, level: float) -> Interval:
    """Exact interval for a proportion (Clopper and Pearson 1934), from `count` of `samples`; never too short."""
    _check_counts(count, 0, samples)
    _check_level(level)
    tail = (1 - level) / 2
    low = float(beta.ppf(tail, count, samples - count + 1)) if count > 0 else 0.0
    high = float(beta.ppf(1 - tail, count + 1, samples - count)) if count < samples else 1.0
    return Interval(low, high, level, "Clopper-Pearson")


def difference_interval(lost: int, won: int, samples: int, level: float) -> Interval:
    """Interval for `(lost - won) / samples`, the drop of a proportion on paired samples.

    Score interval (Tango 1998, Statistics in Medicine 17:891): all D that the score test does not reject,
    `|lost - won - n D| <= z sqrt(n (2 q + D (1 - D)))`, q being the likeliest chance of a won sample under D. It works
    for any counts; with no change at all it ends at `z^2 / (n + z^2)`. Enumerated exactly for 50 and 200 samples, the
    upper end is missed in at most 2.6 % of all cases, the lower in at most 5 %.

    Args:
        lost: samples that were right and are wrong now.
        won: samples that were wrong and are right now.
        samples: all samples, those without a change too.
        level: confidence, above 0 and below 1.
    """
    _check_counts(lost, won, samples)
    n, z = samples, _quantile(level)
    if lost == won == 0:  # the variance at the estimate is 0, a root that is not the end
        return Interval(-z * z / (n + z * z), z * z / (n + z * z), level, "Tango")

    def distance(drop: float) -> tuple[float, float]:
        b = (2 * n - lost + won) * drop - lost - won
        c = -won * drop * (1 - drop)
        # The stable one of the two forms of the positive root of 2n q^2 + b q + c.
        root = math.sqrt(max(b * b - 8 * n * c, 0.0))
        q = (root - b) / (4 * n) if b <= 0 else -2 * c / (root + b)
        variance = max(n * (2 * q + drop * (1 - drop)), 0.0)
        return lost - won - n * drop, z * math.sqrt(variance)

    estimate = (lost - won) / n
    low = _boundary(lambda drop: distance(drop)[0] - distance(drop)[1], estimate, -1.0)
    high = _boundary(lambda drop: distance(drop)[0] + distance(drop)[1], estimate, 1.0)
    return Interval(low, high, level, "Tango")


def relative_interval(lost: int, won: int, right: int, samples: int, level: float) -> Interval:
    """Interval for `1 - (right - lost + won) / right`, the relative drop of a proportion on paired samples.

    Score interval of the ratio T of two paired proportions (Nam and Blackwelder 2002, Statistics in Medicine 21:689):
    all T that the score test does not reject, with the chances by maximum likelihood under T.

    Args:
        lost, won, samples, level: as for `difference_interval`.
        right: samples that were right before, at least 1.
    """
    _check_counts(lost, won, samples)
    if not max(lost, 1) <= right <= samples - won:
        raise ValueError(f"right must be {max(lost, 1)} to {samples - won}, got {right}")
    n, z = samples, _quantile(level)
    if lost == won == 0:
        return Interval(-z * z / right, z * z / (right + z * z), level, "Nam-Blackwelder")
    now = right - lost + won
    ever = (right + won) / n  # share of samples that are right at least once

    def distance(ratio: float) -> tuple[float, float]:
        # Under T, maximum likelihood leaves `ever` at its share, and u, the chance of being right before, solves
        # T won / (ever - u) + lost / (ever - T u) = (1 + T) n. Its smaller root is the one with positive chances.
        a = (1 + ratio) * n * ratio
        b = ratio * ratio * won + lost - (1 + ratio) ** 2 * n * ever
        c = (1 + ratio) * n * ever * ever - ever * (ratio * won + lost)
        divisor = math.sqrt(max(b * b - 4 * a * c, 0.0)) - b
        before = 2 * c / divisor if divisor > 0 else ever
        twice, gained, dropped = (1 + ratio) * before - ever, ever - before, ever - ratio * before
        variance = twice * (1 - ratio) ** 2 + gained + ratio * ratio * dropped
        return now - ratio * right, z * math.sqrt(max(n * variance, 0.0))

    estimate = now / right
    smallest = _boundary(lambda ratio: distance(ratio)[0] - distance(ratio)[1], estimate, 0.0)
    above = max(2 * estimate, 1.0)
    while distance(above)[0] + distance(above)[1] > 0 and above < 1e9:
        above *= 2
    # At ratio 0 the variance is 0 too, and no end either.
    start = max(estimate, 1e-6 / right)
    largest = _boundary(lambda ratio: distance(ratio)[0] + distance(ratio)[1], start, above)
    return Interval(1 - largest, 1 - smallest, level, "Nam-Blackwelder")


def bootstrap_interval(
    contributions: NDArray[np.float64],
    level: float,
    seed: int,
    *,
    references: NDArray[np.float64] | None = None,
    bounds: tuple[float, float] | None = None,
) -> Interval:
    """Interval for a mean, or for `sum(contributions) / sum(references)`: studentized bootstrap (Hall 1988).

    Resamples give the distribution of (estimate - truth) / stderr. For skewed contributions (KL divergences) this
    misses the upper end less often than percentile or BCa intervals; with very long tails and few samples it is still
    too short (log-normal of sigma 1, 100 samples: upper end missed in 6 % instead of 2.5 %).

    Args:
        contributions: `[samples]`, from independent samples; at least 2.
        level: confidence.
        seed: the same seed gives the same interval.
        references: `[samples]`, with a positive sum.
        bounds: what the truth can be at all; without, an end that no resample shows is that of a proportion of samples
            that differ. With bounds, contributions that are all equal do not give an interval of
            length 0, but what the rule of three says: that few samples cannot exclude rare others.
    """
    _check_level(level)
    n = len(contributions)
    if contributions.ndim != 1 or n < 2:
        raise ValueError(f"contributions must be [samples] with at least 2 samples, got {contributions.shape}")
    weights = np.ones(n) if references is None else references
    if weights.shape != contributions.shape or weights.sum() <= 0:
        raise ValueError("references must have the shape of the contributions and a positive sum")
    tail = (1 - level) / 2
    estimate = float(contributions.sum() / weights.sum())
    residuals = contributions - estimate * weights
    stderr = float(residuals.std() * math.sqrt(n) / weights.sum())
    if stderr <= _TOLERANCE * max(abs(estimate), 1e-300):
        low, high = estimate, estimate
        if bounds is not None:
            rare = 1 - tail ** (1 / n)
            low, high = estimate - rare * (estimate - bounds[0]), estimate + rare * (bounds[1] - estimate)
        return Interval(low, high, level, "rule of three" if bounds else "bootstrap-t")
    resamples = max(_RESAMPLES, math.ceil(_TAIL_RESAMPLES / tail))
    pivots = _pivots(contributions, weights, estimate, resamples, np.random.default_rng(seed))
    # Quantiles without interpolation: a pivot may be infinite, where all samples of a resample are equal.
    lowest, highest = np.quantile(pivots, [tail, 1 - tail], method="inverted_cdf")
    low, high = estimate - float(highest) * stderr, estimate - float(lowest) * stderr
    if bounds is not None:
        low, high = max(low, bounds[0]), min(high, bounds[1])
    if not math.isfinite(low) or not math.isfinite(high):
        rarest = _rare_ends(contributions, level) / weights.mean()
        low = low if math.isfinite(low) else min(float(rarest[0]), estimate)
        high = high if math.isfinite(high) else max(float(rarest[1]), estimate)
    return Interval(low, high, level, "bootstrap-t")


def _rare_ends(contributions: NDArray[np.float64], level: float) -> NDArray[np.float64]:
    """What the mean may be where so few samples differ from the rest that a resample may have none of them: as many
    more as a proportion allows, each as far as the farthest seen. `[low, high]`."""
    usual, n = float(np.median(contributions)), len(contributions)
    ends = []
    for differ, farthest in (
        (contributions < usual, contributions.min()),
        (contributions > usual, contributions.max()),
    ):
        ends.append(usual + proportion_interval(int(differ.sum()), n, level).high * (farthest - usual))
    return np.array(ends)


def _pivots(
    contributions: NDArray[np.float64],
    weights: NDArray[np.float64],
    estimate: float,
    resamples: int,
    generator: np.random.Generator,
) -> NDArray[np.float64]:
    """(resampled estimate - estimate) / its standard error, `[resamples]`; infinite where that error is 0."""
    n = len(contributions)
    pivots = np.empty(resamples)
    rows = max(1, _CHUNK_ELEMENTS // n)
    for start in range(0, resamples, rows):
        chosen = generator.integers(0, n, (min(rows, resamples - start), n))
        a, w = contributions[chosen], weights[chosen]
        total = w.sum(1)
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = a.sum(1) / total
            spread = (a - ratio[:, None] * w).std(1) * math.sqrt(n) / total
            pivot = (ratio - estimate) / spread
        pivots[start : start + len(chosen)] = np.where(ratio == estimate, 0.0, pivot)
    return np.nan_to_num(pivots, nan=0.0, posinf=np.inf, neginf=-np.inf)


def _boundary(rejection: Callable[[float], float], estimate: float, limit: float) -> float:
    """Where `rejection` changes its sign between the estimate and `limit`; `limit` when it does not."""
    if estimate == limit or rejection(estimate) * rejection(limit) >= 0:
        return limit
    return float(brentq(rejection, estimate, limit, xtol=_TOLERANCE))


def _quantile(level: float) -> float:
    _check_level(level)
    return float(norm.ppf(1 - (1 - level) / 2))


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, got {level}")


def _check_counts(lost: int, won: int, samples: int) -> None:
    if samples < 1 or lost < 0 or won < 0 or lost + won > samples:
        raise ValueError(f"expected counts of 0 to {samples} samples (at least 1), got {lost} and {won}")

"""Whether the mean of a finite set of numbers is at most a limit, decided from as few of them as that takes.

The search samples are a finite set, so an evaluation that reads them in random order is sampling without replacement,
and the question is about the mean over all of them. Two gamblers bet against "the mean is at most the limit" and
against "it is at least the limit". The fortune of one whose claim is wrong to doubt is a nonnegative supermartingale
that begins at 1, so it ever reaches `1 / error` with a chance of at most `error` (Ville 1939), however often it is
looked at: testing by betting, without replacement (Waudby-Smith and Ramdas, arXiv 2010.09686 and 2006.04347).

With S the sum of the n numbers read so far of N, the mean of the rest, if the mean of all is the limit m, is
`m_n = (N m - S) / (N - n)`. A bet on "above" turns a fortune K into

    K (1 + share (y - m_n) / (m_n - low)),    0 < share < 1, low the least that a number can be,

which is above 0 for every y. Fortunes with several shares are averaged, which is a fair game too: the best share
depends on a variance that nobody knows beforehand. When `m_n` leaves the range of the numbers, the rest can no longer
turn the answer, and it is certain without any bet.
"""

from __future__ import annotations

import math
from enum import StrEnum

import numpy as np

from evaluation.metrics.measurement import Scores

# chance of a wrong answer, for each of the two answers
ERROR = 0.01
_SHARES = np.array([0.9, 0.45, 0.22, 0.11, 0.055])
_ROUNDING = 1e-9  # relative to the range: what sums in float64 may be off by


class Verdict(StrEnum):
    WITHIN = "within"
    """The mean of all is at most the limit."""
    BEYOND = "beyond"
    """The mean of all is above the limit."""
    OPEN = "open"
    """Not known yet."""


class SequentialTest:
    """Reads numbers in random order and says as soon as it can on which side of `limit` the mean of all lies.

    Args:
        population: how many numbers there are, at least 1.
        limit: what the mean is compared with.
        bounds: no number is below the first or above the second.
        error: chance of a wrong verdict, for each verdict.

    Raises:
        ValueError: an empty population, bounds that are not finite and ascending, an error outside (0, 1).
    """

    def __init__(self, population: int, limit: float, bounds: tuple[float, float], error: float = ERROR) -> None:
        low, high = bounds
        if population < 1 or not (math.isfinite(low) and math.isfinite(high) and low < high) or not 0 < error < 1:
            raise ValueError(
                f"expected population >= 1, finite bounds low < high and 0 < error < 1, got {population}, {bounds} "
                f"and {error}"
            )
        self._low, self._high = low, high
        self._above = _Gambler(population, limit, low, high)
        self._below = _Gambler(population, -limit, -high, -low)
        self._enough = math.log(1 / error)
        self.verdict = Verdict.OPEN

    def update(self, values: Scores) -> Verdict:
        """The verdict after `values` [n] more; a verdict once given stays.

        Raises:
            ValueError: a value outside the bounds, or more values than the population has.
        """
        slack = _ROUNDING * (self._high - self._low)
        if len(values) and not (values.min() >= self._low - slack and values.max() <= self._high + slack):
            raise ValueError(
                f"expected values from {self._low:g} to {self._high:g}, got {values.min():g} to {values.max():g}"
            )
        above, below = self._above.bet(values), self._below.bet(-values)
        if self.verdict is Verdict.OPEN and max(above, below) >= self._enough:
            self.verdict = Verdict.BEYOND if above >= below else Verdict.WITHIN
        return self.verdict


class _Gambler:
    """Bets that the mean is above `limit`; the logarithm of its largest fortune so far is the evidence."""

    def __init__(self, population: int, limit: float, low: float, high: float) -> None:
        self._population, self._limit, self._low = population, limit, low
        self._slack = _ROUNDING * (high - low)
        self._count = 0
        self._total = 0.0
        self._fortunes = np.zeros(len(_SHARES))  # logarithms
        self._most = 0.0

    def bet(self, values: Scores) -> float:
        """The largest logarithm of the fortune up to now, after `values` more."""
        if self._count + len(values) > self._population:
            raise ValueError(f"more than the {self._population} values that there are")
        sums = self._total + np.cumsum(values)
        before = np.concatenate([[self._total], sums[:-1]])[: len(values)]
        left = self._population - self._count - np.arange(len(values))
        rest = (self._population * self._limit - before) / left  # mean of the rest, were the limit the mean
        # rest at `low`: all the rest would have to be `low`
        room = np.maximum(rest - self._low, self._slack)
        gains = 1 + _SHARES[:, None] * ((values - rest) / room)
        fortunes = self._fortunes[:, None] + np.cumsum(np.log(np.maximum(gains, 1e-300)), axis=1)
        if len(values):
            self._most = max(self._most, float((np.logaddexp.reduce(fortunes, axis=0) - math.log(len(_SHARES))).max()))
            self._fortunes, self._count, self._total = fortunes[:, -1], self._count + len(values), float(sums[-1])
        left_now = self._population - self._count
        if self._population * self._limit - self._total < self._low * left_now - self._population * self._slack:
            self._most = math.inf  # even if all the rest were `low`
        return self._most

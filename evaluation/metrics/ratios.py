"""Values of a whole set that are the ratio of two sums over its samples, such as errors over positions."""

from __future__ import annotations

import numpy as np

from evaluation.metrics.measurement import Scores, Weighted


def ratio(numerators: Scores, denominators: Scores) -> Weighted:
    """`sum w n / sum w d` under weights w of the samples; where a draw has nothing to divide by, that of all samples.

    Args:
        numerators, denominators: `[samples]`; the second not negative, with a positive sum.
    """
    whole = float(numerators.sum() / denominators.sum())

    def value(weights: Scores) -> Scores:
        below = weights @ denominators
        values = np.full(len(weights), whole)
        np.divide(weights @ numerators, below, out=values, where=below > 0)
        return values

    return value

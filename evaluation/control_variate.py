"""Less noise in an evaluation that reads a part of the samples: what earlier evaluations say of the others.

A plan loses samples that the float network has nearly wrong, and mostly those that similar plans lose. Both are known
for *all* samples before a new plan runs. So every sample gets a prediction g of its contribution c to the drop, and
the mean drop over all N samples is estimated from n of them by the difference estimator

    mean over n of (c - g)  +  mean over N of g.

It is unbiased for *every* g that is fixed before the n samples are drawn uniformly without replacement, and its
variance is that of c - g instead of c. g comes from the softmax probability of the right class, as the log odds
against the runner-up (below 0: wrong), of the float network and of plans evaluated before [our derivation].

With n = N the estimate is the plain mean whatever g is: an evaluation that read all samples gains nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from evaluation.metrics.measurement import Scores
from evaluation.metrics.pair import logits_of

# How far a new plan is expected to move a margin, relative to plans like it, and the spread around that relative to
# their root mean square change; fitted by hand on ResNet20, where between 0.7 and 1 both hardly matter.
_CARRIED = 0.9
_SPREAD = 0.7
# the share of samples with the smallest margins that the spread is taken from: the others hardly ever change sides
_NEAR = 0.25
_MOST_ODDS = 60.0


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over all samples, estimated from some of them, and its standard error as an estimate of the true mean."""

    mean: float
    stderr: float


def margins(output: NDArray[np.generic], classes: NDArray[np.int64], probabilities: bool) -> Scores:
    """[samples]: log odds of the right class against the runner-up, `log p_right - log max p_other`.

    Args:
        output: `[samples, classes]`, logits, or probabilities if `probabilities` says so.
        classes: [samples], the right ones.
    """
    values = np.nan_to_num(logits_of(output, probabilities), nan=-np.inf, posinf=np.inf, neginf=-np.inf)
    rows = np.arange(len(values))
    right = values[rows, classes]
    values[rows, classes] = -np.inf
    with np.errstate(invalid="ignore"):
        odds = right - values.max(-1)
    return np.asarray(np.clip(np.nan_to_num(odds, nan=-_MOST_ODDS), -_MOST_ODDS, _MOST_ODDS))


def predicted_losses(float_margins: Scores, earlier: Sequence[Scores]) -> Scores | None:
    """[samples]: the predicted drop of each, `1[m > 0] - Phi((m + 0.9 (e - m)) / s)`; None without earlier plans.

    m are the float network's margins, e those of `earlier` plans (each [samples], NaN where it was not run), averaged;
    s is 0.7 times the root mean square of `e - m` of the first plan, over the quarter of its samples that are nearest
    to m = 0. A sample that no earlier plan saw is predicted with e = m. Values lie in [0, 1] where m > 0, and else in
    [-1, 0], as the drops themselves do.
    """
    seen = [plan for plan in earlier if not np.isnan(plan).all()]
    if not seen:
        return None
    known = np.isfinite(seen[0])
    near = known & (np.abs(float_margins) <= np.quantile(np.abs(float_margins[known]), _NEAR))
    spread = _SPREAD * float(np.sqrt(np.square(seen[0] - float_margins)[near].mean()))
    stacked = np.stack(seen)
    counts = np.isfinite(stacked).sum(0)
    mean = np.where(counts > 0, np.nansum(stacked, 0) / np.maximum(counts, 1), float_margins)
    expected = float_margins + _CARRIED * (mean - float_margins)
    return np.asarray((float_margins > 0) - ndtr(expected / max(spread, 1e-9)))


def difference_estimate(contributions: Scores, read: NDArray[np.int64], predicted: Scores) -> Estimate:
    """The mean over all samples, from the `contributions` [n] of those with the indices `read` [n].

    The variance is `var(c - g) / n + var(g) / N`: the second term is the luck of all N samples being these. With
    n = N: the plain mean and its standard error.

    Args:
        predicted: g, [N], fixed before the samples were drawn; zeros for none.
    """
    n, population = len(contributions), len(predicted)
    if n == population:
        return Estimate(float(contributions.mean()), float(contributions.std(ddof=1) / np.sqrt(n)))
    rests = contributions - predicted[read]
    variance = rests.var(ddof=1) / n + predicted.var() / population
    return Estimate(float(rests.mean() + predicted.mean()), float(np.sqrt(variance)))

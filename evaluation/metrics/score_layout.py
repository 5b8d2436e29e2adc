"""What the scores of detections are: which numbers, of how many classes, and what makes probabilities of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from evaluation.metrics.measurement import Output, Scores

_MOST_ROWS = 1 << 16
_ROUNDING = 1e-3


def run_of_scores(candidates: Output) -> int:
    """How many numbers `[N, A, numbers]` from the fifth on lie within 0 and 1 everywhere."""
    values = candidates[..., 4:]
    within = np.asarray(values.min((0, 1)) >= -_ROUNDING) & np.asarray(values.max((0, 1)) <= 1 + _ROUNDING)
    return values.shape[-1] if within.all() else int(np.argmin(within))


def has_objectness(scores: Output, numbers_last: bool) -> bool:
    """Whether the first of scores `[N, A, 1 + C]` says that there is anything, and the others of which class it is.

    A class's score is high where no other is; objectness is high where one of the others is too. Where it never is
    high, networks that have it keep the numbers of a candidate on the last axis.
    """
    rows = _rows_of(scores)
    if scores.shape[-1] > 2 and _sums_to_one(rows[:, 1:]):
        return True
    if _sums_to_one(rows):
        return False
    sure = rows[:, 0] > 0.5
    if sure.sum() >= 10:
        return bool(np.median(rows[sure, 1:].max(1)) > 0.3)
    return numbers_last


def class_axis(output: Output, count: int) -> tuple[int | None, int] | None:
    """Axis of classes in scores of `count` boxes and how many classes there are; None where these are no scores.

    `[N, count]` has no such axis, and one class.
    """
    if output.dtype.kind != "f":
        return None
    if output.ndim == 2 and output.shape[1] == count:
        return None, 1
    if output.ndim != 3:
        return None
    if output.shape[1] == count:
        return 2, output.shape[2]
    return (1, output.shape[1]) if output.shape[2] == count else None


def probabilities_of(scores: Output, options: Mapping[str, Any]) -> tuple[str, str]:
    """Activation and background class of scores `[N, A, C]`, as the options say or as the values look.

    Probabilities that sum to 1 have a background class, the first or the last, whichever has more. So have logits that
    are mostly highest in the first or the last class and above 0 there.
    """
    rows = _rows_of(scores)
    activation, background = options.get("activation"), options.get("background")
    within = len(rows) == 0 or bool(rows.min() >= -_ROUNDING and rows.max() <= 1 + _ROUNDING)
    ends = rows.mean(0)[[0, -1]] if len(rows) else np.zeros(2)
    larger = "first" if ends[0] >= ends[1] else "last"
    softmax = False
    if scores.shape[-1] > 1 and len(rows):
        winners = rows.argmax(1)
        share = max(float(np.mean(winners == place)) for place in (0, scores.shape[-1] - 1))
        softmax = not within and share > 0.6 and float(np.median(rows.max(1))) > 0
    if background is None:
        has = activation != "sigmoid" and scores.shape[-1] > 1 and (softmax or (within and _sums_to_one(rows)))
        background = larger if has else "none"
    if activation is None:
        activation = "none" if within else "softmax" if background != "none" else "sigmoid"
    return str(activation), str(background if scores.shape[-1] > 1 else "none")


def _rows_of(scores: Output) -> Scores:
    rows = scores.reshape(-1, scores.shape[-1])
    rows = rows[:: max(1, len(rows) // _MOST_ROWS)]
    return np.asarray(rows[np.isfinite(rows).all(1)].astype(np.float64))


def _sums_to_one(rows: Scores) -> bool:
    return len(rows) > 0 and bool((np.abs(rows.sum(1) - 1) < 1e-2).all())

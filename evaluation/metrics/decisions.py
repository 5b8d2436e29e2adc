"""Single scores, `[samples]` or `[samples, 1]`, that are compared with a threshold: flips, and the area under the ROC.

Two outputs of one sample are the two classes of a softmax where they are probabilities, or where there is one label for
both: their score is the second, or for logits the second minus the first.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evaluation.errors import MetricNotApplicable
from evaluation.metrics.classes import shares_right
from evaluation.metrics.labels import counted, fitted
from evaluation.metrics.measurement import Measurement, Scores, Weighted
from evaluation.metrics.pair import Metric, Pair, are_probabilities, over_samples, require_finite_float, require_floats
from evaluation.metrics.predictions import above, require_samples, threshold_of, wrong_labels

_CHUNK_ELEMENTS = 1 << 22


def flips(pair: Pair) -> list[Measurement]:
    """Share of scores on the other side of the threshold than the float network's.

    With labels 0 and 1 it is the accuracy at the threshold that is lost. The threshold is an option; without it 0.5
    where the float network's scores lie within [0, 1], else 0. A score that is not finite is on the wrong side.
    """
    scores = _Scores.of("flips", pair)
    before, after = (above(each, scores.threshold) for each in (scores.before, scores.after))
    if scores.labels is not None:
        return [shares_right("flips", before == scores.labels, after == scores.labels, scores.counted)]
    flipped = over_samples(before != after)
    single = before.shape[1] == 1
    return [Measurement("flips", 0.0, float(flipped.mean()), flipped, np.ones_like(flipped), single, bounds=(0.0, 1.0))]


def auc(pair: Pair) -> list[Measurement]:
    """Area under the ROC: how often a positive scores above a negative, ties half (Hanley and McNeil 1982).

    Positives have the label 1, negatives 0; without labels they are what the float network decides at the threshold
    (see `flips`), and its own area is 1. Several scores of a sample are pooled with those of all others. A quantized
    score that is not finite ranks last among the positives, first among the negatives.

    Raises:
        MetricNotApplicable: only one kind; as all metrics of classes.
    """
    scores = _Scores.of("auc", pair)
    truth = above(scores.before, scores.threshold) if scores.labels is None else scores.labels
    positive, known = truth == 1, scores.counted
    kinds = int((positive & known).sum()), int((~positive & known).sum())
    if 0 in kinds:
        source = f"decisions of the float network at {scores.threshold:g}" if scores.labels is None else "labels"
        raise MetricNotApplicable(
            f"auc needs positives and negatives, got {kinds[0]} and {kinds[1]} by the {source} for output "
            f"{pair.name!r}; add labels of both kinds, or give a threshold between the scores"
        )
    sample = np.broadcast_to(np.arange(len(known))[:, None], known.shape)[known]
    worst = np.where(positive, -np.inf, np.inf)
    values = [
        _area(np.where(np.isfinite(each), each, worst)[known], positive[known], sample)
        for each in (scores.before, scores.after)
    ]
    return [Measurement.of_set("auc", values[0], values[1], len(known), bounds=(-1.0, 1.0))]


@dataclass(frozen=True, eq=False)
class _Scores:
    """Scores `[samples, n]` of both networks, their labels (0, 1) or None, and which of them count."""

    before: Scores
    after: Scores
    labels: NDArray[np.int64] | None
    counted: NDArray[np.bool_]
    threshold: float

    @classmethod
    def of(cls, metric: str, pair: Pair) -> _Scores:
        first, second = pair.single
        require_samples(metric, pair.name, first)
        require_floats(metric, pair.name, first)
        labels = pair.truth.labels(pair.name)
        with np.errstate(invalid="ignore", over="ignore"):
            before, after = (each.astype(np.float64) for each in (first, second))
            if before.shape[1:] == (2,):
                probabilities = are_probabilities(before)
                if probabilities or (labels is not None and fitted(labels, (len(before),)) is not None):
                    before, after = (_second_class(each, probabilities) for each in (before, after))
        known = np.ones(before.shape, dtype=np.bool_)
        if labels is not None:
            fitting = fitted(labels, before.shape)
            if fitting is None:
                raise wrong_labels(metric, pair.name, labels, before.shape)
            known = counted(metric, pair.name, fitting, 2)
            labels = fitting.reshape(len(before), -1)
        require_finite_float(metric, pair.name, np.where(known, before, 0.0))
        threshold = threshold_of(metric, before, pair.options.get("threshold"))
        rows = [each.reshape(len(before), -1) for each in (before, after)]
        return cls(rows[0], rows[1], labels, known.reshape(len(before), -1), threshold)


def _second_class(output: Scores, probabilities: bool) -> Scores:
    """`[samples, 2]` to the score of the second class, `[samples]`; NaN where either is not finite."""
    score = output[:, 1] if probabilities else output[:, 1] - output[:, 0]
    return np.where(np.isfinite(output).all(1), score, np.nan)


def _area(scores: Scores, positive: NDArray[np.bool_], sample: NDArray[np.int64]) -> Weighted:
    """The area under the ROC as a function of weights of the samples; where a draw has one kind only, that of all.

    Args:
        scores, positive, sample: `[n]`, of each score its kind and the sample that it belongs to; both kinds are there.
    """
    order = np.argsort(scores, kind="stable")
    sample, up = sample[order], positive[order].astype(np.float64)
    ranked = scores[order]
    starts = np.concatenate([[0], 1 + np.flatnonzero(ranked[1:] != ranked[:-1])])  # of runs of equals

    def parts(weights: Scores) -> tuple[Scores, Scores]:
        """Weights of positives above negatives, and of all such pairs, `[draws]` each."""
        each = weights[:, sample]
        positives = np.add.reduceat(each * up, starts, axis=1)
        negatives = np.add.reduceat(each * (1 - up), starts, axis=1)
        below = np.cumsum(negatives, axis=1)
        return (positives * (below - negatives / 2)).sum(1), positives.sum(1) * below[:, -1]

    rows = max(1, _CHUNK_ELEMENTS // len(order))

    def value(weights: Scores) -> Scores:
        areas = np.full(len(weights), whole)
        for start in range(0, len(weights), rows):
            won, pairs = parts(weights[start : start + rows])
            np.divide(won, pairs, out=areas[start : start + rows], where=pairs > 0)
        return areas

    won, pairs = parts(np.ones((1, int(sample.max()) + 1)))
    whole = float(won[0] / pairs[0])
    return value


FLIPS = Metric("flips", flips, ("labels",), options=("threshold",))
AUC = Metric("auc", auc, ("labels",), options=("threshold",))

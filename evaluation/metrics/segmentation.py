"""Mean intersection over union of segmentations: the Jaccard index by class (PASCAL VOC, Everingham et al. 2010)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from evaluation.errors import MetricNotApplicable
from evaluation.metrics.measurement import Measurement, Scores, Weighted
from evaluation.metrics.pair import Metric, Pair
from evaluation.metrics.predictions import Classes, Predictions

MOST_CLASSES = 1 << 14
_CHUNK_ELEMENTS = 1 << 22


def miou(pair: Pair) -> list[Measurement]:
    """Mean over classes of `|predicted and true| / |predicted or true|`, the pixels of all samples together.

    Classes that are neither predicted nor true are left out; labels below 0 do not count. Without labels the float
    network's classes are true. A pixel to which the quantized network gives no class is missing where it belongs.

    Raises:
        MetricNotApplicable: an output of integers with more than `MOST_CLASSES` of them; as all metrics of classes.
    """
    predictions = Predictions.of("miou", pair)
    known = predictions.counted
    each = [predictions.truth, predictions.before, predictions.after]
    highest = max(int(classes.max(initial=0, where=known)) for classes in each)
    if highest >= MOST_CLASSES:
        raise MetricNotApplicable(
            f"miou counts pixels by class, and output {pair.name!r} or its labels have the class {highest}; expected "
            f"fewer than {MOST_CLASSES} classes: take the metric accuracy or same"
        )
    true, *predicted = (_pixels(classes, known, highest + 1) for classes in each)
    values = []
    for classes, pixels in zip(each[1:], predicted, strict=True):
        both = _pixels(classes, known & (classes == predictions.truth), highest + 1)
        values.append(_mean_iou(both, true + pixels - both))
    return [Measurement.of_set("miou", values[0], values[1], pair.samples, bounds=(-1.0, 1.0))]


def _pixels(classes: Classes, counted: NDArray[np.bool_], most: int) -> Scores:
    """How many of the counted pixels have each class, `[samples, classes]`; those without a class have none."""
    rows = [np.bincount(row[keep & (row >= 0)], minlength=most) for row, keep in zip(classes, counted, strict=True)]
    return np.stack(rows).astype(np.float64)


def _mean_iou(both: Scores, either: Scores) -> Weighted:
    """The mean over classes of `sum w both / sum w either` under weights w of the samples, over the classes that have
    any; where a draw has none, that of all samples.

    Args:
        both, either: pixels `[samples, classes]`.
    """
    seen = either.any(0)
    both, either = both[:, seen], either[:, seen]
    whole = float((both.sum(0) / either.sum(0)).mean())
    rows = max(1, _CHUNK_ELEMENTS // both.shape[1])

    def value(weights: Scores) -> Scores:
        means = np.full(len(weights), whole)
        for start in range(0, len(weights), rows):
            some = weights[start : start + rows]
            below = some @ either
            there = below > 0
            ious = np.divide(some @ both, below, out=np.zeros_like(below), where=there)
            count = there.sum(1)
            np.divide(ious.sum(1), count, out=means[start : start + rows], where=count > 0)
        return means

    return value


MIOU = Metric("miou", miou, ("labels",), options=("axis", "threshold"))

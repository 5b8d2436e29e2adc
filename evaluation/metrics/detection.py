"""Detection: F1 at the score threshold, and mean average precision, both at an intersection over union of 0.5.

What is right are the boxes of the data, or where they have none the float network's own detections above the score
threshold. A detection is right where it overlaps a box of its class that no better detection has taken.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from evaluation.errors import DatasetLabelsOutOfRange, MetricNotApplicable
from evaluation.metrics.boxes import SWAPPED, iou_of
from evaluation.metrics.detection_layout import OPTIONS, THRESHOLD, layout_of, threshold_of
from evaluation.metrics.detections import MOST_CLASS, Detections, Layout, detections_of
from evaluation.metrics.measurement import Measurement, Scores
from evaluation.metrics.pair import Metric, Pair

IOU = 0.5
OVERLAP = 0.6
LOWEST = 0.1
"""Detections count down to this share of the score threshold: their order matters for the average precision."""
_ELEMENTS = 1 << 18


def detection_f1(pair: Pair) -> list[Measurement]:
    """`2 right / (detections + boxes)` over all images and classes, of detections above the score threshold."""
    return _measured("detection_f1", pair, f1_of)


def detection_map(pair: Pair) -> list[Measurement]:
    """Mean over classes that have boxes of the area under the interpolated curve of precision over recall.

    All points of the curve count. Source: Everingham et al., The PASCAL Visual Object Classes Challenge: A
    Retrospective, 2015, from VOC2010 on.
    """
    return _measured("detection_map", pair, average_precision_of)


Value = Callable[[Scores], Scores]
Matched = NDArray[np.bool_]


def _measured(
    metric: str, pair: Pair, value_of: Callable[[Detections, Matched, Detections, int, float], Value]
) -> list[Measurement]:
    iou, overlap = share_of(pair.options, "iou", IOU), share_of(pair.options, "nms_iou", OVERLAP)
    before, after = dict(zip(pair.names, pair.before, strict=True)), dict(zip(pair.names, pair.after, strict=True))
    layout = layout_of(metric, before, pair.options)
    asked = pair.options.get("score_threshold")
    threshold = threshold_of(layout, before) if asked is None else share_of(pair.options, "score_threshold", THRESHOLD)
    lowest = LOWEST * threshold
    truth = truth_of(metric, pair, layout)
    found = detections_of(layout, before, lowest, overlap)
    if truth is not None and pair.options.get("box_format") is None:
        swapped = replace(layout, box_format=SWAPPED[layout.box_format])
        others = detections_of(swapped, before, lowest, overlap)
        if matches(others, truth, iou).sum() > matches(found, truth, iou).sum():
            layout, found = swapped, others
    if truth is None:
        truth = found.take(found.score >= threshold)
        if len(truth) == 0:
            best = f"{found.score.max():.3g}" if len(found) else "no candidate"
            raise MetricNotApplicable(
                f"{metric}: the float network detects nothing above a score of {threshold:g}, its best is {best}: set "
                "`score_threshold` lower, or send `boxes` and `labels`"
            )
    quantized = detections_of(layout, after, lowest, overlap)
    right = matches(found, truth, iou)
    if not right.any():
        raise MetricNotApplicable(
            f"{metric}: of the {len(truth)} boxes of the data the float network finds none; expected x1, y1, x2, y2 in "
            "the units of its boxes and classes counted as in its scores: check them, and the option `box_format`"
        )
    own = value_of(found, right, truth, pair.samples, threshold)
    kept = value_of(quantized, matches(quantized, truth, iou), truth, pair.samples, threshold)
    return [Measurement.of_set(metric, own, kept, pair.samples)]


def matches(found: Detections, truth: Detections, iou: float) -> Matched:
    """Which detections are right, `[detections]`: the best first, each takes the box that it overlaps most."""
    right = np.zeros(len(found), dtype=np.bool_)
    keys = truth.image * (MOST_CLASS + 1) + truth.label
    order = np.argsort(keys, kind="stable")
    own = found.image * (MOST_CLASS + 1) + found.label
    first, last = np.searchsorted(keys[order], own, "left"), np.searchsorted(keys[order], own, "right")
    counts = last - first
    detection = np.repeat(np.arange(len(found)), counts)
    within = np.arange(len(detection)) - np.repeat(np.cumsum(counts) - counts, counts)
    box = order[np.repeat(first, counts) + within]
    overlaps = iou_of(found.corners[detection], truth.corners[box])
    near = np.flatnonzero(overlaps >= iou)
    near = near[np.lexsort((-overlaps[near], detection[near]))]  # detections are sorted by score already
    taken: set[int] = set()
    for each, target in zip(detection[near].tolist(), box[near].tolist(), strict=True):
        if not right[each] and target not in taken:
            right[each] = True
            taken.add(target)
    return right


def f1_of(found: Detections, right: Matched, truth: Detections, samples: int, threshold: float) -> Value:
    counted = found.score >= threshold
    hits = np.bincount(found.image[counted & right], minlength=samples).astype(np.float64)
    sizes = np.bincount(found.image[counted], minlength=samples) + np.bincount(truth.image, minlength=samples)
    everything = 2 * hits.sum() / sizes.sum()

    def value(weights: Scores) -> Scores:
        total = weights @ sizes
        return np.where(total > 0, 2 * (weights @ hits) / np.where(total > 0, total, 1.0), everything)

    return value


def average_precision_of(found: Detections, right: Matched, truth: Detections, samples: int, threshold: float) -> Value:
    """As a function of weights of the images; a draw without any box has the value of all images."""
    del threshold  # every score counts
    curves = [
        _Curve(found.take(found.label == label), right[found.label == label], truth.take(truth.label == label), samples)
        for label in np.unique(truth.label)
    ]

    def some(weights: Scores, otherwise: float) -> Scores:
        columns = np.ascontiguousarray(weights.T)
        total, classes = np.zeros(len(weights)), np.zeros(len(weights))
        for curve in curves:
            boxes = curve.boxes @ columns
            present = boxes > 0
            total += np.where(present, curve.area(columns) / np.where(present, boxes, 1.0), 0.0)
            classes += present
        return np.where(classes > 0, total / np.maximum(classes, 1), otherwise)

    everything = float(some(np.ones((1, samples)), 0.0)[0])
    rows = max(1, _ELEMENTS // max(samples, *(len(curve.images) for curve in curves)))

    def value(weights: Scores) -> Scores:
        starts = range(0, len(weights), rows)
        return np.concatenate([some(weights[start : start + rows], everything) for start in starts])

    return value


class _Curve:
    """Precision over recall of one class, as a function of weights of the images.

    Precision is largest where a right detection comes, so that only these are points of the curve. `wrong` [points,
    images] counts the wrong detections of each image between one and the next.
    """

    def __init__(self, found: Detections, right: Matched, truth: Detections, samples: int) -> None:
        order = np.argsort(-found.score, kind="stable")
        image, right = found.image[order], right[order]
        points = int(right.sum())
        before = np.cumsum(right)
        counted = ~right & (before < points)
        self.images = image[right]
        self.wrong = csr_matrix(
            (np.ones(int(counted.sum())), (before[counted], image[counted])), shape=(points, samples)
        )
        self.hits = np.bincount(self.images, minlength=samples).astype(np.float64)
        self.boxes = np.bincount(truth.image, minlength=samples).astype(np.float64)

    def area(self, columns: Scores) -> Scores:
        """Area under the curve times the weight of all boxes, [draws], under weights `[images, draws]`."""
        if self.wrong.nnz == 0:  # the precision is 1 all along, as of the float network against itself
            return np.asarray(self.hits @ columns)
        hits = columns[self.images]
        true = np.cumsum(hits, axis=0)
        positives = true + np.cumsum(self.wrong @ columns, axis=0)
        precision = np.divide(true, positives, out=np.zeros_like(true), where=positives > 0)
        best = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
        return np.asarray((hits * best).sum(0))


def truth_of(metric: str, pair: Pair, layout: Layout) -> Detections | None:
    """The boxes of the data as detections, None where they have none.

    Raises:
        MetricNotApplicable: boxes or labels of another shape, or no box at all.
        DatasetLabelsOutOfRange: labels that are no classes of the network.
    """
    boxes = pair.truth.boxes(layout.boxes)
    if boxes is None:
        return None
    if boxes.ndim != 3 or boxes.shape[2] != 4 or len(boxes) != pair.samples:
        raise MetricNotApplicable(
            f"{metric}: boxes of the data have the shape {list(boxes.shape)}; expected [{pair.samples}, n, 4], x1, y1, "
            "x2, y2 of each, and labels below 0 where there is none"
        )
    labels = pair.truth.labels(layout.boxes)
    if labels is None:
        if layout.class_count is None or layout.class_count - (layout.background != "none") > 1:
            raise MetricNotApplicable(
                f"{metric}: the data have boxes and no labels; expected `labels` {list(boxes.shape[:2])}: add them"
            )
        labels = np.full(boxes.shape[:2], int(layout.background == "first"))
    if labels.shape != boxes.shape[:2]:
        raise MetricNotApplicable(
            f"{metric}: labels have the shape {list(labels.shape)}; expected {list(boxes.shape[:2])}, one for each box"
        )
    most = layout.class_count or MOST_CLASS
    if labels.size and labels.max() >= most:
        raise DatasetLabelsOutOfRange(
            f"labels of boxes go up to {labels.max()}; the network has {most} classes, so expected 0 to {most - 1}, "
            "and below 0 for no box: check that the boxes belong to this network"
        )
    with np.errstate(invalid="ignore"):
        usable = (np.abs(boxes) < 1e100).all(2) & (boxes[..., 2:] > boxes[..., :2]).all(2) & (labels >= 0)
    if not usable.any():
        raise MetricNotApplicable(
            f"{metric}: the data have no box; expected x1 < x2 and y1 < y2 and a label that is not negative in some"
        )
    image, place = np.nonzero(usable)
    return Detections(image, boxes[image, place], np.ones(len(image)), labels[image, place])


def share_of(options: Mapping[str, Any], name: str, default: float) -> float:
    """An option between 0 and 1, both excluded.

    Raises:
        MetricNotApplicable: it is not.
    """
    value = options.get(name)
    if value is None:
        return default
    if not 0 < value < 1:
        raise MetricNotApplicable(f"the option `{name}` is {value:g}; expected a number between 0 and 1: leave it out")
    return float(value)


DETECTION_F1 = Metric("detection_f1", detection_f1, ("boxes", "labels"), options=OPTIONS, several=True)
DETECTION_MAP = Metric("detection_map", detection_map, ("boxes", "labels"), options=OPTIONS, several=True)

"""Detections of one image, and how many of them two networks share; plain numpy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.certificates.entry import Array

SCORE = 0.25
"""The usual score threshold of detectors."""
SAME = 0.5
"""Two boxes of one class are the same object from this intersection over union."""
DUPLICATE = 0.45


@dataclass(frozen=True, eq=False)
class Detections:
    """`boxes` [K, 4] as x1, y1, x2, y2; `scores` [K]; `classes` [K]; the best score first."""

    boxes: Array
    scores: Array
    classes: Array


def iou(first: Array, second: Array) -> Array:
    """Intersection over union of boxes [A, 4] and [B, 4]: [A, B]."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    common = np.clip(high - low, 0, None).prod(-1)
    areas = [np.clip(boxes[:, 2:] - boxes[:, :2], 0, None).prod(-1) for boxes in (first, second)]
    return np.asarray(common / np.maximum(areas[0][:, None] + areas[1][None] - common, 1e-9))


def selected(boxes: Array, scores: Array, classes: Array, threshold: float = SCORE) -> Detections:
    """What is above the threshold, without duplicates (non-maximum suppression in each class)."""
    usable = (scores > threshold) & np.isfinite(boxes).all(-1)
    boxes, scores, classes = boxes[usable], scores[usable], classes[usable]
    order = np.argsort(-scores, kind="stable")
    kept: list[int] = []
    overlap = iou(boxes, boxes)
    for index in order:
        if not any(classes[k] == classes[index] and overlap[k, index] > DUPLICATE for k in kept):
            kept.append(int(index))
    return Detections(boxes[kept], scores[kept], classes[kept])


def from_classes(boxes: Array, scores: Array, threshold: float = SCORE) -> list[Detections]:
    """Of boxes [N, A, 4] and scores [N, A, classes]: every anchor has its best class."""
    scores = np.nan_to_num(scores, nan=0.0)
    return [
        selected(b, s.max(-1), s.argmax(-1), threshold)
        for b, s in zip(np.nan_to_num(boxes, nan=0.0, posinf=1e6, neginf=-1e6), scores, strict=True)
    ]


def missed(before: Sequence[Detections], after: Sequence[Detections]) -> float:
    """1 - F1 of the quantized network's detections, those of the float network being the truth."""
    return 1 - f1(after, [d.boxes for d in before], [d.classes for d in before])


def f1(detections: Sequence[Detections], boxes: Sequence[Array], classes: Sequence[Array]) -> float:
    """F1 over all images at IoU 0.5; each true box is matched once, by the best score first. Class -1: no box."""
    hits = given = wanted = 0
    for detected, true_boxes, true_classes in zip(detections, boxes, classes, strict=True):
        real = true_classes >= 0
        open_boxes, open_classes = true_boxes[real], true_classes[real]
        given += len(detected.scores)
        wanted += int(real.sum())
        overlap = np.where(detected.classes[:, None] == open_classes[None], iou(detected.boxes, open_boxes), 0)
        for row in range(len(overlap)):
            if overlap.shape[1] and overlap[row].max() >= SAME:
                hits += 1
                overlap[:, overlap[row].argmax()] = 0
    return 2 * hits / max(1, given + wanted)

"""Boxes: their formats, their overlap, and the suppression of those that another one covers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from evaluation.metrics.measurement import Scores

FORMATS = ("xyxy", "cxcywh", "yxyx", "xywh")
"""Corners, centre and size, corners with y first, upper left corner and size; in any unit."""
SWAPPED = {"xyxy": "yxyx", "yxyx": "xyxy", "cxcywh": "xywh", "xywh": "cxcywh"}
"""Formats that a box alone does not tell apart."""


def corners_of(boxes: Scores, box_format: str) -> Scores:
    """Boxes `[..., 4]` of a format as x1, y1, x2, y2."""
    first, second = boxes[..., :2], boxes[..., 2:]
    if box_format == "yxyx":
        return np.concatenate([first[..., ::-1], second[..., ::-1]], axis=-1)
    if box_format == "cxcywh":
        return np.concatenate([first - second / 2, first + second / 2], axis=-1)
    if box_format == "xywh":
        return np.concatenate([first, first + second], axis=-1)
    return boxes


def iou_of(one: Scores, other: Scores) -> Scores:
    """Intersection over union of corners `[n, 4]` with `[n, 4]`, row by row; 0 where neither has an area."""
    inner = np.minimum(one[:, 2:], other[:, 2:]) - np.maximum(one[:, :2], other[:, :2])
    shared = np.maximum(inner, 0.0).prod(1)
    union = _areas(one) + _areas(other) - shared
    return np.asarray(np.divide(shared, union, out=np.zeros(len(one)), where=union > 0))


def suppress(groups: NDArray[np.int64], corners: Scores, limit: float) -> NDArray[np.int64]:
    """Greedy non-maximum suppression inside groups: which boxes stay, in their order.

    All groups go on together: in each round the first of each that is left stays, and those that overlap it with more
    than `limit` go.

    Args:
        groups: `[boxes]`, the image and class of each, all of one group in a row, the best first.
        corners: `[boxes, 4]`.
    """
    left = np.arange(len(groups))
    kept = [left[:0]]
    while len(left):
        own = groups[left]
        first = np.concatenate([[True], own[1:] != own[:-1]])
        leaders = left[first]
        kept.append(leaders)
        leader = leaders[np.cumsum(first) - 1]
        left = left[~first & (iou_of(corners[left], corners[leader]) <= limit)]
    return np.sort(np.concatenate(kept))


def shares_of_formats(boxes: Scores) -> tuple[float, float]:
    """Which share of boxes `[n, 4]` has its second corner behind its first, and which a positive width and height."""
    if len(boxes) == 0:
        return 0.0, 0.0
    ordered = (boxes[:, 2:] > boxes[:, :2]).all(1)
    return float(ordered.mean()), float((boxes[:, 2:] > 0).all(1).mean())


def _areas(corners: Scores) -> Scores:
    return np.asarray(np.maximum(corners[:, 2:] - corners[:, :2], 0.0).prod(1))

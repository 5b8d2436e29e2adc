"""Detections of a detector's outputs, read as its claim says, and how many of them two files share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.certificates.detections import Detections, missed, selected
from benchmarks.networks.entry import Array

BOX = 4
THRESHOLD = 0.25
PLAUSIBLE = 0.95
"""Boxes are corners where so many of the float network's have the second corner behind the first."""


def detections_lost(before: Sequence[list[Array]], after: Sequence[list[Array]], claim: Mapping[str, Any]) -> float:
    """1 - F1 of the second file's detections, those of the first being right."""
    first, second = ([_columns(row, claim) for row in rows] for rows in (before, after))
    boxes = np.concatenate([row[0] for row in first])
    corners = claim["options"].get("box_format") == "xyxy" or bool(
        np.mean((boxes[:, 2:] > boxes[:, :2]).all(-1)) >= PLAUSIBLE
    )
    threshold = claim["options"].get("score_threshold", THRESHOLD)
    found = [[_detected(row, corners, threshold) for row in rows] for rows in (first, second)]
    return missed(*found)


def _detected(row: tuple[Array, Array, Array], corners: bool, threshold: float) -> Detections:
    boxes, scores, classes = row
    if not corners:
        boxes = np.concatenate([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], axis=1)
    return selected(boxes, scores, classes, threshold)


def _columns(row: list[Array], claim: Mapping[str, Any]) -> tuple[Array, Array, Array]:
    """Boxes [A, 4], scores [A] and classes [A] of one image: in one output, four numbers first, or in several."""
    options = claim["options"]
    values = dict(zip(claim["outputs"], (np.asarray(v, np.float64) for v in row), strict=True))
    whole, scores_name = values[options["boxes"]], options.get("scores")
    if scores_name in (None, options["boxes"]):
        anchors = whole if options.get("axis", 1) == whole.ndim else whole.T
        boxes, scores = anchors[:, :BOX], anchors[:, BOX:]
        if options.get("objectness"):
            scores = scores[:, :1] * scores[:, 1:]
    else:
        boxes = whole if whole.shape[-1] == BOX else whole.T
        scores = values[scores_name]
        scores = scores[:, None] if scores.ndim == 1 else scores if len(scores) == len(boxes) else scores.T
    scores = _probabilities(np.nan_to_num(scores), options.get("activation"))
    match options.get("background"):
        case "first":
            scores = scores[:, 1:]
        case "last":
            scores = scores[:, :-1]
    classes = values[options["classes"]] if options.get("classes") else scores.argmax(-1)
    return boxes, scores.max(-1), classes


def _probabilities(scores: Array, activation: str | None) -> Array:
    match activation:
        case "sigmoid":
            return np.asarray(1 / (1 + np.exp(-scores)))
        case "softmax":
            powers = np.exp(scores - scores.max(-1, keepdims=True))
            return np.asarray(powers / powers.sum(-1, keepdims=True))
    return scores

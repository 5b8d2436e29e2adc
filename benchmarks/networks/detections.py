"""Detections of a detector's outputs, read as its claim says, and how many of them two files share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.certificates.detections import Detections, missed, selected
from benchmarks.networks.entry import Array

BOX = 4
THRESHOLD = 0.25


def detections_lost(before: Sequence[list[Array]], after: Sequence[list[Array]], claim: Mapping[str, Any]) -> float:
    """1 - F1 of the second file's detections, those of the first being right."""
    return missed([_read(row, claim) for row in before], [_read(row, claim) for row in after])


def _read(row: list[Array], claim: Mapping[str, Any]) -> Detections:
    """Boxes and scores of one image: in one output, four numbers first, or in two outputs."""
    options, outputs = claim["options"], claim["outputs"]
    values = dict(zip(outputs, (np.asarray(v, np.float64) for v in row), strict=True))
    boxes_name, scores_name = options["boxes"], options.get("scores")
    whole = values[boxes_name]
    if scores_name is None or scores_name == boxes_name:
        anchors = whole if whole.shape[-1] < whole.shape[0] else whole.T
        boxes, scores = anchors[:, :BOX], anchors[:, BOX:]
        boxes = np.concatenate([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], axis=1)
    else:
        boxes = whole if whole.shape[-1] == BOX else whole.T
        scores = values[scores_name]
        scores = scores[:, None] if scores.ndim == 1 else scores if len(scores) == len(boxes) else scores.T
    if options.get("background") == "first":
        scores = scores[:, 1:]
    scores = np.nan_to_num(scores)
    classes_name = options.get("classes")
    classes = values[classes_name] if classes_name else scores.argmax(-1)
    return selected(boxes, scores.max(-1), classes, options.get("score_threshold", THRESHOLD))

"""Detections are read in the layout that a claim names, and only real losses count."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.networks.detections import detections_lost

CORNERS = np.array([[0, 0, 4, 4], [10, 10, 16, 18], [30, 2, 34, 9.0]])
CENTRES = np.concatenate([(CORNERS[:, :2] + CORNERS[:, 2:]) / 2, CORNERS[:, 2:] - CORNERS[:, :2]], 1)
SCORES = np.array([[0.9, 0.1], [0.2, 0.7], [0.1, 0.05]])
"""Two of three boxes are detected."""
OTHER = SCORES[:, ::-1]


def with_background(scores):
    rest = 1 - scores.sum(1, keepdims=True)
    return np.concatenate([rest.clip(0.01), scores], 1)


APART = {"boxes": "boxes", "scores": "scores"}
LAYOUTS = {
    "apart": (lambda s: [CORNERS, s], APART),
    "transposed": (lambda s: [CORNERS.T, s.T], APART),
    "centres": (lambda s: [CENTRES, s], APART),
    "background": (lambda s: [CORNERS, with_background(s)], {**APART, "background": "first"}),
    "logits": (
        lambda s: [CORNERS, np.log(with_background(s)[:, [1, 2, 0]])],
        {**APART, "background": "last", "activation": "softmax"},
    ),
    "sigmoid": (lambda s: [CORNERS, np.log(s / (1 - s))], {**APART, "activation": "sigmoid"}),
    "one output": (lambda s: [np.concatenate([CENTRES, s], 1).T], {"boxes": "boxes", "axis": 1}),
    "rows": (lambda s: [np.concatenate([CENTRES, s], 1)], {"boxes": "boxes", "axis": 2}),
    "objectness": (
        lambda s: [np.concatenate([CENTRES, np.full((3, 1), 0.99), s], 1)],
        {"boxes": "boxes", "axis": 2, "objectness": True},
    ),
}


def lost(layout, scores):
    make, options = LAYOUTS[layout]
    outputs = ["boxes", "scores"][: len(make(SCORES))]
    return detections_lost([make(SCORES)] * 2, [make(SCORES), make(scores)], {"outputs": outputs, "options": options})


@pytest.mark.parametrize("layout", list(LAYOUTS))
def test_what_is_kept_and_what_is_lost(layout):
    assert lost(layout, SCORES) == 0
    assert lost(layout, OTHER) == pytest.approx(0.5)
    assert lost(layout, np.array([[0.9, 0.1], [0.1, 0.1], [0.1, 0.05]])) == pytest.approx(1 - 2 * 3 / 7)


def test_classes_of_their_own_and_images_without_a_box():
    claim = {"outputs": ["b", "s", "c"], "options": {"boxes": "b", "scores": "s", "classes": "c"}}
    rows = [[CORNERS, SCORES.max(1), np.array([1, 2, 1])], [np.zeros((0, 4)), np.zeros(0), np.zeros(0)]]
    other = [[CORNERS, SCORES.max(1), np.array([1, 1, 1])], rows[1]]
    assert detections_lost(rows, rows, claim) == 0
    assert detections_lost(rows, other, claim) == 0.5

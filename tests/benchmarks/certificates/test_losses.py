"""The independent checks themselves, against sklearn, hand-made cases and networks that know nothing."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, jaccard_score, r2_score, roc_auc_score

from benchmarks.certificates.detections import Detections, f1, missed, selected
from benchmarks.certificates.losses import (
    accuracy_lost,
    auc,
    balanced_lost,
    changed,
    edits,
    flips,
    greedy_text,
    mean_iou,
    nats_lost,
    neighbours_lost,
    r2_lost,
    unexplained,
)
from benchmarks.certificates.null import null_outputs


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_shares_of_predictions(rng):
    before = np.eye(4, dtype=np.float32)[[0, 1, 2, 3]]
    after = before.copy()
    after[0] = [0, 1, 0, 0]
    after[1, 0] = np.nan
    assert changed(before, after) == 0.5
    assert accuracy_lost(before, after, np.array([0, 1, 2, -1])) == pytest.approx(2 / 3)
    labels = rng.integers(0, 4, 200)
    x, y = rng.normal(size=(2, 200, 4))
    expected = [balanced_accuracy_score(labels, scores.argmax(-1)) for scores in (x, y)]
    assert balanced_lost(x, y, labels) == pytest.approx(expected[0] - expected[1])
    assert mean_iou(x.argmax(-1), labels, 4) == pytest.approx(jaccard_score(labels, x.argmax(-1), average="macro"))


def test_single_scores(rng):
    labels = rng.integers(0, 2, 300)
    scores = np.round(rng.normal(labels * 0.8, 1), 1)
    assert auc(scores[:, None], labels) == pytest.approx(roc_auc_score(labels, scores))
    assert flips(np.array([0.4, 0.6, 0.9]), np.array([0.6, 0.7, np.nan])) == pytest.approx(2 / 3)


def test_values(rng):
    before = rng.normal(size=(500, 3)) * [1, 100, 0.01]
    targets = before + rng.normal(size=before.shape) * [0.2, 20, 0.002]
    after = before + rng.normal(size=before.shape) * [0, 0, 0.005]
    assert unexplained(before, after, -1) == pytest.approx(0.25, rel=0.2)
    assert unexplained(before, after) < 1e-6, "pixels drown what is small: the reason for channels"
    scores = [r2_score(targets, y, multioutput="raw_values") for y in (before, after)]
    assert r2_lost(before, after, targets, -1) == pytest.approx(max(scores[0] - scores[1]))
    assert unexplained(before, np.full_like(before, np.nan)) == np.inf


def test_networks_that_know_nothing_explain_nothing(rng):
    outputs = {"values": rng.normal(size=(400, 5, 2)), "codes": rng.integers(0, 3, (400, 2))}
    nulls = null_outputs(outputs)
    assert unexplained(outputs["values"], nulls["mean"]["values"], -1) == pytest.approx(1)
    assert unexplained(outputs["values"], nulls["other_samples"]["values"], -1) == pytest.approx(2, rel=0.1)
    assert not (nulls["other_samples"]["values"] == outputs["values"]).all((1, 2)).any()
    assert (nulls["mean"]["codes"] == nulls["mean"]["codes"][0]).all()


def test_texts():
    steps = np.array([[0, 1, 1, 0, 1, 2, 2], [3, 3, 0, 0, 3, 0, 0]])
    assert greedy_text(np.eye(4)[steps]) == [[1, 1, 2], [3, 3]]
    assert edits([1, 2, 3], [2, 3, 4]) == 2
    assert edits([], [1, 2]) == 2
    logits = np.log(np.array([[[0.5, 0.5], [0.9, 0.1]]]))
    other = np.log(np.array([[[0.25, 0.75], [0.1, 0.9]]]))
    assert nats_lost(logits, other, np.array([[0, -1]])) == pytest.approx(np.log(2))


def test_neighbours(rng):
    groups = np.repeat(np.eye(4), 10, axis=0) + rng.normal(0, 0.1, (40, 4))
    assert neighbours_lost(groups, groups) == 0
    assert neighbours_lost(groups, rng.normal(size=groups.shape)) > 0.5


def test_detections():
    boxes = np.array([[0, 0, 10, 10], [0, 0, 9, 10], [20, 20, 30, 30], [0, 0, 5, 5.0]])
    found = selected(boxes, np.array([0.9, 0.8, 0.7, 0.1]), np.array([0, 0, 1, 0]))
    assert found.boxes.tolist() == boxes[[0, 2]].tolist(), "the second is a duplicate, the last below the threshold"
    moved = Detections(found.boxes + np.array([[0], [6]]), found.scores, found.classes)
    assert missed([found], [found]) == 0
    assert missed([found], [moved]) == pytest.approx(0.5)
    assert f1([found], [boxes[[0, 2]]], [np.array([0, -1])]) == pytest.approx(2 / 3)
    swapped = Detections(found.boxes, found.scores, 1 - found.classes)
    assert missed([found], [swapped]) == 1

"""Flips and the area under the ROC against scikit-learn, DeLong's standard error among it."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, roc_auc_score

from evaluation.errors import MetricNotApplicable
from tests.evaluation.classes_measuring import measure, scores


def sigmoid(values):
    return 1 / (1 + np.exp(-values.astype(np.float64)))


def test_flips_are_scores_on_the_other_side():
    before, after, _ = scores(300, 0.5, 0)
    measured = measure("flips", before, after, threshold=0.3)
    assert measured.drop() == measured.quantized_value == pytest.approx(((before > 0.3) != (after > 0.3)).mean())
    assert (measured.float_value, measured.counts) == (0.0, True)


def test_the_threshold_is_that_of_a_sigmoid_where_scores_are_probabilities():
    before, after, _ = scores(300, 0.5, 0)
    assert measure("flips", before, after).drop() == measure("flips", before, after, threshold=0.0).drop()
    probabilities = sigmoid(before), sigmoid(after)
    assert measure("flips", *probabilities).drop() == measure("flips", before, after).drop() > 0
    for threshold in (np.nan, np.inf):
        with pytest.raises(MetricNotApplicable, match="finite number"):
            measure("flips", before, after, threshold=threshold)


def test_with_labels_it_is_the_accuracy_that_is_lost():
    before, after, labels = scores(300, 0.5, 1)
    measured = measure("flips", before, after, labels)
    oracle = [accuracy_score(labels, each[:, 0] > 0) for each in (before, after)]
    assert (measured.float_value, measured.quantized_value) == pytest.approx(tuple(oracle))
    assert measured.drop() == pytest.approx(oracle[0] - oracle[1])
    assert measured.right_to_wrong > measured.wrong_to_right > 0


def test_several_scores_of_a_sample_are_a_share():
    generator = np.random.default_rng(0)
    before = generator.standard_normal((40, 3, 5))
    after = before + generator.standard_normal(before.shape)
    measured = measure("flips", before, after)
    np.testing.assert_allclose(measured.contributions, ((before > 0) != (after > 0)).mean((1, 2)))
    assert not measured.counts
    labels = (before > 0).astype(np.int64)
    labels[:, 0] = -1
    assert measure("flips", before, after, labels).drop() == pytest.approx(((before > 0) != (after > 0))[:, 1:].mean())


@pytest.mark.parametrize("decimals", [None, 1])
def test_the_area_is_that_of_scikit_learn(decimals):
    before, after, labels = scores(200, 0.7, 2)
    if decimals is not None:  # many equals
        before, after = before.round(decimals), after.round(decimals)
    measured = measure("auc", before, after, labels)
    oracle = [roc_auc_score(labels, each[:, 0]) for each in (before, after)]
    assert (measured.float_value, measured.quantized_value) == pytest.approx(tuple(oracle))
    weights = np.random.default_rng(0).uniform(0, 3, (5, 200))
    weighted = [
        roc_auc_score(labels, before[:, 0], sample_weight=row) - roc_auc_score(labels, after[:, 0], sample_weight=row)
        for row in weights
    ]
    np.testing.assert_allclose(measured.weighted(weights), weighted)


def test_without_labels_the_decisions_of_the_float_network_are_right():
    before, after, _ = scores(200, 0.7, 3)
    measured = measure("auc", before, after, threshold=0.5)
    assert measured.float_value == 1.0
    assert measured.quantized_value == pytest.approx(roc_auc_score(before[:, 0] > 0.5, after[:, 0]))


def test_the_standard_error_is_that_of_delong():
    """DeLong, DeLong and Clarke-Pearson 1988, Biometrics 44:837, by its placements."""
    before, after, labels = scores(200, 0.7, 4)
    up, down = labels == 1, labels == 0

    def placements(values):
        above = (values[up][:, None] > values[down]) + 0.5 * (values[up][:, None] == values[down])
        return above.mean(1), above.mean(0)

    differences = [x - y for x, y in zip(placements(before[:, 0]), placements(after[:, 0]), strict=True)]
    oracle = np.sqrt(sum(each.var(ddof=1) / len(each) for each in differences))
    assert measure("auc", before, after, labels).stderr() == pytest.approx(oracle, rel=0.02)


def test_any_growing_function_leaves_the_area():
    before, after, labels = scores(200, 0.7, 5)
    expected = measure("auc", before, after, labels).drop()
    assert measure("auc", sigmoid(before), sigmoid(after), labels).drop() == pytest.approx(expected)
    reversed_drop = measure("auc", -before, -after, 1 - labels).drop()
    assert reversed_drop == pytest.approx(expected)


def test_two_columns_are_the_classes_of_a_softmax():
    before, after, labels = scores(200, 0.7, 6)
    shift = np.random.default_rng(0).normal(size=before.shape)
    logits = [np.concatenate([shift - each / 2, shift + each / 2], axis=1) for each in (before, after)]
    probabilities = [np.stack([1 - sigmoid(each[:, 0]), sigmoid(each[:, 0])], axis=1) for each in (before, after)]
    for name in ("auc", "flips"):
        expected = measure(name, before, after, labels).drop()
        assert measure(name, *logits, labels).drop() == pytest.approx(expected)
        assert measure(name, *probabilities, labels).drop() == pytest.approx(expected)
        assert measure(name, *probabilities).drop() == pytest.approx(measure(name, before, after).drop())
    both = np.stack([labels, 1 - labels], axis=1)
    assert measure("flips", *logits, both).samples == 200  # two scores with a label each


def test_scores_of_all_steps_are_pooled():
    generator = np.random.default_rng(0)
    before = generator.standard_normal((30, 8, 1))
    after = before + generator.standard_normal(before.shape)
    labels = generator.integers(-1, 2, (30, 8))
    counted = labels >= 0
    measured = measure("auc", before, after, labels)
    assert measured.quantized_value == pytest.approx(roc_auc_score(labels[counted], after[..., 0][counted]))


def test_one_kind_alone_has_no_area():
    before, after, labels = scores(50, 0.7, 7)
    with pytest.raises(MetricNotApplicable, match=r"got 0 and 50 by the labels"):
        measure("auc", before, after, np.zeros_like(labels))
    with pytest.raises(MetricNotApplicable, match=r"got 0 and 50 by the decisions of the float network at 9"):
        measure("auc", before, after, threshold=9.0)
    rare = np.zeros_like(labels)
    rare[3] = 1
    assert np.isfinite(measure("auc", before, after, rare).contributions).all()


def test_scores_that_are_not_finite_rank_worst():
    before = np.array([[2.0], [1.0], [-1.0], [-2.0]])
    after = before.copy()
    after[0], after[3] = np.inf, -np.inf
    assert measure("auc", before, after).quantized_value == pytest.approx(1 / 4)

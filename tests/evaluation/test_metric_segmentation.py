"""Mean intersection over union against scikit-learn's Jaccard score."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import jaccard_score

from evaluation.errors import MetricNotApplicable
from tests.evaluation.classes_measuring import images, measure


def oracle(truth, predicted):
    counted = truth >= 0
    return jaccard_score(truth[counted], predicted[counted], average="macro")


def test_it_is_the_macro_jaccard_score():
    before, after, labels = images(30, 2.0, 0)
    measured = measure("miou", before, after, labels)
    assert measured.float_value == pytest.approx(oracle(labels, before.argmax(1)))
    assert measured.quantized_value == pytest.approx(oracle(labels, after.argmax(1)))
    assert measured.drop() == pytest.approx(measured.float_value - measured.quantized_value)


def test_without_labels_the_float_classes_are_true():
    before, after, _ = images(30, 2.0, 0)
    before, after = (np.repeat(np.repeat(each, 2, 2), 2, 3) for each in (before, after))
    measured = measure("miou", before, after)
    assert measured.float_value == 1.0
    assert measured.quantized_value == pytest.approx(oracle(before.argmax(1), after.argmax(1)))


def test_classes_that_nobody_has_are_left_out():
    before, after, labels = images(30, 2.0, 0)
    more = [np.concatenate([each, np.full((30, 3, 6, 6), -99.0)], axis=1) for each in (before, after)]
    assert measure("miou", *more, labels).drop() == pytest.approx(measure("miou", before, after, labels).drop())


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("probabilities", [False, True])
@pytest.mark.parametrize("labelled", [False, True])
def test_where_the_classes_lie_does_not_matter(last, probabilities, labelled):
    before, after, labels = images(30, 2.0, 1)
    expected = measure("miou", before, after, labels if labelled else None, axis=1)
    if probabilities:
        before, after = (np.exp(each) / np.exp(each).sum(1, keepdims=True) for each in (before, after))
    if last:
        before, after = np.moveaxis(before, 1, -1), np.moveaxis(after, 1, -1)
    measured = measure("miou", before, after, labels if labelled else None)
    assert measured.drop() == pytest.approx(expected.drop())


@pytest.mark.parametrize(
    ("shape", "axis"),
    [((21, 8, 8), 1), ((8, 8, 21), 3), ((3, 8, 9), 1), ((9, 8, 3), 3), ((150, 8, 8), 1), ((4, 7), 1), ((7, 4), 2)],
)
def test_the_axis_follows_from_the_shape_where_nothing_else_tells(shape, axis):
    generator = np.random.default_rng(0)
    before = generator.standard_normal((6, *shape))
    after = before + generator.standard_normal(before.shape)
    assert measure("miou", before, after).drop() == measure("miou", before, after, axis=axis).drop()


def test_a_single_channel_is_a_mask():
    generator = np.random.default_rng(2)
    before = generator.uniform(0, 1, (20, 1, 6, 6))
    after = np.clip(before + 0.2 * generator.standard_normal(before.shape), 0, 1)
    for labels in (None, (before[:, 0] > 0.5).astype(np.int64), (before > 0.5).astype(np.int64)):
        measured = measure("miou", before, after, labels)
        assert measured.quantized_value == pytest.approx(oracle((before > 0.5).ravel(), (after > 0.5).ravel()))


@pytest.mark.parametrize("labelled", [False, True])
def test_classes_as_integers_are_taken_as_they_are(labelled):
    before, after, labels = images(20, 2.0, 3)
    labels = labels if labelled else None
    expected = measure("miou", before, after, labels, axis=1)
    before, after = before.argmax(1), after.argmax(1)
    assert measure("miou", before, after, labels).drop() == expected.drop()
    if not labelled:
        assert measure("miou", before - 2, after - 2).drop() == pytest.approx(expected.drop())
    with pytest.raises(MetricNotApplicable, match="fewer than"):
        measure("miou", before + 10**9, after, labels)


def test_a_pixel_without_a_class_is_missing_where_it_belongs():
    truth = np.array([[[0, 0, 1, 1]]])
    before = np.eye(2, dtype=np.float32)[truth].transpose(0, 3, 1, 2)
    after = before.copy()
    after[0, :, 0, 0] = np.nan
    assert measure("miou", before, after, truth).quantized_value == pytest.approx((1 / 2 + 1) / 2)

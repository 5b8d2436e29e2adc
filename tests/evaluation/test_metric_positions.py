"""Top 5, accuracy by position and next tokens against scikit-learn; how the axis of the classes is found."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, top_k_accuracy_score

from evaluation.errors import MetricNotApplicable
from tests.evaluation.classes_measuring import MAKERS, measure, tokens


@pytest.mark.parametrize("k", [1, 3, 5, 11])
def test_top5_is_that_of_scikit_learn(k):
    before, after, labels = MAKERS["top5"](300, 2.0, 0)
    measured = measure("top5", before, after, labels, k=k)
    oracle = [top_k_accuracy_score(labels, each, k=k, labels=np.arange(12)) for each in (before, after)]
    assert (measured.float_value, measured.quantized_value) == pytest.approx(tuple(oracle))
    assert measured.counts
    assert measured.right_to_wrong - measured.wrong_to_right == pytest.approx(300 * measured.drop())


def test_top5_without_labels_looks_for_the_class_of_the_float_network():
    before, after, _ = MAKERS["top5"](300, 2.0, 0)
    measured = measure("top5", before, after)
    kept = [best in np.argsort(-row)[:5] for best, row in zip(before.argmax(1), after, strict=True)]
    assert measured.float_value == 1.0
    assert measured.quantized_value == pytest.approx(np.mean(kept))


def test_top5_takes_the_first_of_equals():
    flat = np.zeros((12, 12), np.float32)
    measured = measure("top5", np.eye(12, dtype=np.float32), flat)
    np.testing.assert_array_equal(measured.contributions, np.arange(12) >= 5)
    masked = np.where(np.eye(12) > 0, -np.inf, 0.0)
    assert measure("top5", np.eye(12), masked).quantized_value == 0.0


def test_top5_of_few_classes_sees_nothing():
    before, after, labels = MAKERS["top5"](30, 2.0, 0)
    for k in (0, -1, 12, 99):
        with pytest.raises(MetricNotApplicable, match="k from 1 to 11"):
            measure("top5", before, after, labels, k=k)
    with pytest.raises(MetricNotApplicable, match="use top1"):
        measure("top5", before[:, :5], after[:, :5], labels % 5)


def test_top5_averages_within_samples_as_top1_does():
    before, after, labels = tokens(50, 2.0, 1)
    one = measure("top1", before, after, labels)
    other = measure("top5", before, after, labels, k=1)
    np.testing.assert_allclose(other.contributions, one.contributions)


@pytest.mark.parametrize("name", ["accuracy", "next_token"])
def test_positions_count_alike_whatever_their_sample(name):
    before, after, labels = tokens(80, 1.5, 2)
    measured = measure(name, before, after, labels)
    counted = labels >= 0
    oracle = [accuracy_score(labels[counted], each.argmax(-1)[counted]) for each in (before, after)]
    assert (measured.float_value, measured.quantized_value) == pytest.approx(tuple(oracle))
    assert measured.drop() == pytest.approx(oracle[0] - oracle[1])
    assert measured.drop() != pytest.approx(measure("top1", before, after, labels).drop(), abs=1e-4)


@pytest.mark.parametrize("name", ["accuracy", "next_token"])
def test_without_labels_it_is_agreement_by_position(name):
    before, after, _ = tokens(80, 1.5, 2)
    measured = measure(name, before, after)
    assert measured.float_value == 1.0
    assert measured.quantized_value == pytest.approx((before.argmax(-1) == after.argmax(-1)).mean())
    assert measured.weighted is None  # as many positions in every sample: a mean, which may be measured in parts


def test_one_label_a_sample_is_right_or_wrong():
    before, after, labels = MAKERS["top5"](100, 2.0, 3)
    measured = measure("accuracy", before, after, labels)
    assert measured.counts
    np.testing.assert_array_equal(measured.contributions, measure("top1", before, after, labels).contributions)


def test_labels_below_0_do_not_count_in_top1():
    before, after, labels = MAKERS["top5"](100, 2.0, 3)
    labels[::3] = -1
    kept = labels >= 0
    measured = measure("top1", before, after, labels)
    assert measured.drop() == pytest.approx(measure("top1", before[kept], after[kept], labels[kept]).drop())


@pytest.mark.parametrize("axis", [1, 2, 3])
def test_the_axis_of_the_classes_follows_from_the_labels(axis):
    before, after, _ = tokens(40, 1.5, 4)
    before, after = (each.reshape(40, 3, 4, 6) for each in (before, after))
    labels = before.argmax(-1)
    expected = measure("accuracy", before, after, labels)
    moved = measure("accuracy", np.moveaxis(before, -1, axis), np.moveaxis(after, -1, axis), labels)
    assert moved.drop() == expected.drop() > 0.1


@pytest.mark.parametrize("axis", [1, 2])
def test_of_two_axes_that_fit_it_is_the_one_that_is_right(axis):
    generator = np.random.default_rng(0)
    before = generator.standard_normal((50, 7, 7))
    labels = before.argmax(axis)
    measured = measure("accuracy", before, before + generator.standard_normal(before.shape), labels)
    assert measured.float_value == 1.0
    assert measured.quantized_value < 0.8


@pytest.mark.parametrize("shape", [(1, 6), (6, 1), (6,), (1, 6, 1)])
def test_axes_of_length_1_are_no_classes(shape):
    generator = np.random.default_rng(0)
    before = generator.standard_normal((50, *shape))
    after = before + 0.5 * generator.standard_normal(before.shape)
    flat = [each.reshape(50, 6) for each in (before, after)]
    labels = flat[0].argmax(1)
    assert measure("accuracy", before, after, labels).drop() == measure("top1", *flat, labels).drop()


def test_an_axis_that_is_not_there_is_refused():
    before, after, labels = tokens(10, 1.0, 5)
    for name in ("accuracy", "next_token", "perplexity", "top5", "ctc", "agreement", "kl", "top1", "miou"):
        for axis in (0, 3, -3, -4, 17):
            with pytest.raises(MetricNotApplicable, match=f"axis {axis}"):
                measure(name, before, after, labels, axis=axis)


def test_scores_without_an_axis_of_classes_have_two():
    generator = np.random.default_rng(0)
    before = generator.uniform(0, 1, (40, 1, 5))
    after = np.clip(before + 0.3 * generator.standard_normal(before.shape), 0, 1)
    labels = (before[:, 0] > 0.7).astype(np.int64)
    measured = measure("accuracy", before, after, labels, threshold=0.7)
    assert measured.float_value == 1.0
    assert measured.quantized_value == pytest.approx(((after[:, 0] > 0.7) == labels).mean())
    assert measure("accuracy", before, after, labels).float_value == pytest.approx(
        ((before[:, 0] > 0.5) == labels).mean()
    )

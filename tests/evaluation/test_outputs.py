"""What outputs are taken for."""

from __future__ import annotations

import json

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import expit, log_softmax, softmax

from evaluation.labelled import axes_of_classes, label_axis
from evaluation.metrics.truth import Truth
from evaluation.outputs import Meaning, OutputFacts, facts_of

Output = NDArray[np.generic]
SAMPLES = 80


def numbers(*shape: int, scale: float = 1.0, seed: int = 0) -> Output:
    return (scale * np.random.default_rng(seed).normal(size=(SAMPLES, *shape))).astype(np.float32)


def fact(output: Output, maker: str = "Gemm", name: str = "y", **truth: Output) -> OutputFacts:
    (found,) = facts_of({name: output}, Truth(truth), {name: maker})
    return found


def test_logits_of_a_trained_classifier_are_guessed_from_how_sure_they_are() -> None:
    """Nothing says so, which is why they stay values that may be classes."""
    found = fact(numbers(10, scale=4))
    assert (found.meaning, found.guess) == (Meaning.VALUES, 1)
    assert "as logits" in found.reason
    assert fact(np.moveaxis(numbers(6, 6, 8, scale=4), 3, 1), "Conv").guess == 1
    assert fact(numbers(7, 500, scale=4)).guess == 2


@pytest.mark.parametrize("scale", [1e-3, 0.5, 1e4])
def test_measurements_are_not(scale: float) -> None:
    """Of the size of nothing, of about one, and of pixels: no softmax is that unsure, or that sure."""
    found = fact(numbers(10, scale=scale))
    assert (found.meaning, found.guess) == (Meaning.VALUES, None)


def test_few_numbers_need_a_name() -> None:
    assert fact(numbers(4, scale=4)).guess is None
    assert fact(numbers(4, scale=4), name="class_logits").meaning is Meaning.CLASSES
    assert fact(numbers(4, scale=4), name="class_scores").guess == 1
    assert fact(numbers(4, scale=1e4), name="class_scores").guess is None


def test_labels_say_what_the_classes_are() -> None:
    small = numbers(4, scale=0.1)
    assert fact(small).meaning is Meaning.VALUES
    assert fact(small, labels=small.argmax(1)).meaning is Meaning.CLASSES
    # which the network knows nothing of, or that it has no number for
    assert fact(small, labels=np.random.default_rng(5).integers(0, 4, SAMPLES)).meaning is Meaning.VALUES
    assert fact(small, labels=np.arange(SAMPLES) % 5).meaning is Meaning.VALUES


def test_labels_of_another_length_are_sequences_of_symbols() -> None:
    tokens = numbers(12, 6, scale=4)
    assert fact(tokens).guess == 2
    found = fact(tokens, labels=np.ones((SAMPLES, 5), np.int64))
    assert (found.meaning, found.axis, found.guess) == (Meaning.CLASSES, 2, None)


def test_targets_of_its_shape_say_that_numbers_are_numbers() -> None:
    output = numbers(10, scale=4)
    assert fact(output, targets=output).guess is None
    assert fact(output, targets=output[:, :1]).guess == 1


def test_what_makes_them_says_what_they_are() -> None:
    values = numbers(3, scale=0.3)
    assert fact(softmax(values, axis=1), "Softmax").meaning is Meaning.PROBABILITIES
    assert fact(softmax(values, axis=1), "Mul").meaning is Meaning.PROBABILITIES
    assert fact(log_softmax(values, axis=1), "LogSoftmax").meaning is Meaning.CLASSES
    assert fact(expit(values), "Sigmoid").meaning is Meaning.SCORES
    assert fact(expit(values), "Mul").meaning is Meaning.VALUES


def test_integers_and_booleans_are_codes() -> None:
    for dtype in (np.int64, np.uint8, np.bool_):
        found = fact(numbers(10).astype(dtype))
        assert (found.meaning, found.axis) == (Meaning.CODES, None)
        assert np.dtype(dtype).name in found.reason


def test_rows_that_some_samples_lack_are_padding() -> None:
    rows = numbers(6, 4, scale=3)
    assert not fact(rows).padded
    rows[3, 2:] = np.nan
    found = fact(rows)
    assert found.padded
    assert not found.class_like
    assert np.isfinite(found.spread).all()


def test_facts_survive_as_json() -> None:
    output = numbers(3)
    output[:, 1] = 2
    found = fact(output)
    assert found.constant == 1
    assert OutputFacts.of_document(json.loads(json.dumps(found.document()))) == found
    assert found.spread == pytest.approx((output[:, 0].std(), 2.0, output[:, 2].std()), rel=1e-5)


@pytest.mark.parametrize(
    ("shape", "labels", "axes"),
    [
        ((10,), (), [1]),
        ((7, 5), (7,), [2]),
        ((5, 7), (7,), [1]),
        ((7, 7), (7,), [2, 1]),
        ((4, 6, 6), (6, 6), [1]),
        ((6, 6, 4), (6, 6), [3]),
        ((6, 6, 6), (6, 6), [1, 3]),
        ((1,), (), []),
        ((), (), []),
        ((10,), (3,), []),
    ],
)
def test_the_axis_of_classes_is_the_one_that_labels_lack(
    shape: tuple[int, ...], labels: tuple[int, ...], axes: list[int]
) -> None:
    output, right = numbers(*shape), np.ones((SAMPLES, *labels), np.int64)
    assert axes_of_classes(output, right) == axes
    assert label_axis("y", output, Truth({"labels": right})) == (axes[0] if axes else None)
    assert label_axis("y", output, Truth({"labels.y": right, "labels": np.ones(3)})) == (axes[0] if axes else None)
    assert label_axis("y", output, Truth({"labels": 99 * right})) is None
    assert label_axis("y", output, Truth()) is None

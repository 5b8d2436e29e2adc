"""The expected drop against labels that are drawn from the probabilities themselves."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax

from evaluation.expected_drop import ExpectedDrop

SAMPLES, CLASSES = 20_000, 6


@pytest.fixture(scope="module")
def drawn() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits of a calibrated network, labels drawn from it, and logits of a network that is somewhat off."""
    rng = np.random.default_rng(0)
    logits = 2 * rng.standard_normal((SAMPLES, CLASSES))
    chances = softmax(logits, axis=-1)
    labels = (chances.cumsum(-1) < rng.random((SAMPLES, 1))).sum(-1)
    return logits, labels, logits + 0.7 * rng.standard_normal(logits.shape)


@pytest.mark.parametrize("overconfident", [1.0, 3.0])
@pytest.mark.parametrize("as_probabilities", [False, True])
def test_is_the_drop_without_the_luck_of_the_labels(drawn, overconfident: float, as_probabilities: bool) -> None:
    logits, labels, other = drawn
    output = overconfident * logits
    output = (softmax(output, axis=-1) if as_probabilities else output).astype(np.float32)
    found = ExpectedDrop.of(output, labels)
    assert found is not None
    np.testing.assert_allclose(found.probabilities, softmax(logits, axis=-1), atol=0.02)
    losses = found.losses(other, np.arange(SAMPLES))
    assert losses.min() >= 0
    drops = (logits.argmax(-1) == labels) * 1.0 - (other.argmax(-1) == labels)
    # both are means over the same samples: four standard errors of their difference
    assert abs(losses.mean() - drops.mean()) < 4 * (losses - drops).std() / np.sqrt(SAMPLES)
    assert losses.std() < drops.std() / 2


def test_samples_are_those_that_were_read(drawn) -> None:
    logits, labels, other = drawn
    found = ExpectedDrop.of(logits, labels)
    assert found is not None
    read = np.array([5, 3, 8])
    np.testing.assert_array_equal(found.losses(other[read], read), found.losses(other, np.arange(SAMPLES))[read])


def test_an_output_that_is_no_number_loses_all_there_was(drawn) -> None:
    logits, labels, other = drawn
    found = ExpectedDrop.of(logits, labels)
    assert found is not None
    broken = other[:2].copy()
    broken[1, 2] = np.nan
    losses = found.losses(broken, np.arange(2))
    assert losses[1] == found.probabilities[1].max()


def test_is_for_one_row_of_classes_a_sample() -> None:
    labels = np.zeros(4, dtype=np.int64)
    assert ExpectedDrop.of(np.zeros((4, 3, 2)), labels) is None
    assert ExpectedDrop.of(np.full((4, 2), np.nan), labels) is None

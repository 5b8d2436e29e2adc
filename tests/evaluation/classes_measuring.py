"""A metric of classes by name on arrays, and networks that every one of them can be asked about."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from evaluation.metrics.measurement import Measurement
from evaluation.metrics.pair import Pair
from evaluation.metrics.registry import metric_of
from evaluation.metrics.truth import Truth

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray]


def measure(name: str, before: np.ndarray, after: np.ndarray, labels=None, **options) -> Measurement:
    truth = Truth({} if labels is None else {"labels": np.asarray(labels)})
    (measured,) = metric_of(name).measure(Pair(("y",), (before,), (after,), truth, options))
    return measured


def tokens(samples: int, noise: float, seed: int) -> Arrays:
    """Logits [samples, 12, 6] of which most have a clear class, and labels of samples that differ in length."""
    generator = np.random.default_rng(seed)
    ease = generator.uniform(0.3, 3.0, (samples, 1, 1))
    before = (ease * 3 * generator.standard_normal((samples, 12, 6))).astype(np.float32)
    after = (before + noise * generator.standard_normal(before.shape)).astype(np.float32)
    labels = before.argmax(-1)
    wrong = generator.random(labels.shape) < 0.2
    labels[wrong] = generator.integers(0, 6, int(wrong.sum()))
    labels[np.arange(12) >= generator.integers(3, 13, samples)[:, None]] = -1
    return before, after, labels


def classes(samples: int, noise: float, seed: int) -> Arrays:
    """Logits [samples, 12], one label each."""
    generator = np.random.default_rng(seed)
    before = (3 * generator.standard_normal((samples, 12))).astype(np.float32)
    after = (before + noise * generator.standard_normal(before.shape)).astype(np.float32)
    return before, after, np.where(generator.random(samples) < 0.8, before.argmax(-1), 0)


def images(samples: int, noise: float, seed: int) -> Arrays:
    """Logits [samples, 5, 6, 6] of images that have some classes more than others, and labels [samples, 6, 6]."""
    generator = np.random.default_rng(seed)
    before = 2 * generator.standard_normal((samples, 5, 6, 6)) + generator.standard_normal((samples, 5, 1, 1))
    after = (before + noise * generator.standard_normal(before.shape)).astype(np.float32)
    labels = np.where(generator.random((samples, 6, 6)) < 0.8, before.argmax(1), generator.integers(0, 5, (6, 6)))
    labels[generator.random(labels.shape) < 0.1] = -1
    return before.astype(np.float32), after, labels


def scores(samples: int, noise: float, seed: int) -> Arrays:
    """One score a sample, [samples, 1], and binary labels."""
    generator = np.random.default_rng(seed)
    before = generator.standard_normal((samples, 1)).astype(np.float32)
    after = (before + noise * generator.standard_normal(before.shape)).astype(np.float32)
    return before, after, (before[:, 0] + 0.5 * generator.standard_normal(samples) > 0.2).astype(np.int64)


def transcripts(samples: int, noise: float, seed: int) -> Arrays:
    """Logits [samples, 20, 5] that are blank at half of the steps, and labels without the blank."""
    generator = np.random.default_rng(seed)
    steps = np.where(generator.random((samples, 20)) < 0.5, 0, generator.integers(1, 5, (samples, 20)))
    before = (4 * np.eye(5)[steps] + generator.standard_normal((samples, 20, 5))).astype(np.float32)
    after = (before + noise * generator.standard_normal(before.shape)).astype(np.float32)
    return before, after, np.where(steps > 0, steps, -1)


def indices(samples: int, noise: float, seed: int) -> Arrays:
    """What an ArgMax gives of the logits of `tokens`, [samples, 12], and labels."""
    before, after, labels = tokens(samples, noise, seed)
    return before.argmax(-1), after.argmax(-1), labels


MAKERS: dict[str, Callable[[int, float, int], Arrays]] = {
    "top5": classes,
    "accuracy": tokens,
    "miou": images,
    "next_token": tokens,
    "perplexity": tokens,
    "flips": scores,
    "auc": scores,
    "ctc": transcripts,
    "same": indices,
}

"""Evaluations in random order: verdicts about all samples, estimates of absolute and relative drops."""

from __future__ import annotations

import numpy as np
import pytest

from evaluation.errors import MetricNotApplicable
from evaluation.metrics.measurement import DropKind, Measurement
from evaluation.sampling import FEWEST_SAMPLES, Sampling
from evaluation.sequential import Verdict
from tests.evaluation.measuring import KINDS, measure

CLASSES = 4
SAMPLES = 1200


def outputs(noise: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits of a float network that is right in most cases, of one with noise on them, and labels."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, CLASSES, SAMPLES)
    logits = generator.normal(size=(SAMPLES, CLASSES)) + 3 * np.eye(CLASSES)[labels]
    return logits, logits + noise * generator.normal(size=logits.shape), labels


def part(measurement: Measurement, read: np.ndarray) -> Measurement:
    contributions, references = measurement.contributions[read], measurement.references[read]
    values = measurement.float_value, measurement.quantized_value
    return Measurement(measurement.metric, *values, contributions, references, measurement.counts, measurement.bounds)


def sampled(
    metric: str, max_drop: float, kind: DropKind, noise: float, seed: int = 1
) -> tuple[Verdict, Sampling, Measurement]:
    """An evaluation up to its first verdict, 50 samples at a time, and the measurement of all samples."""
    before, after, labels = outputs(noise)
    whole = measure(metric, before, after, labels)
    sampling = Sampling(measure(metric, before, before, labels), max_drop, kind)
    order = np.random.default_rng(seed).permutation(SAMPLES)
    for start in range(0, SAMPLES, 50):
        read = order[start : start + 50]
        verdict = sampling.add(part(whole, read), read)
        if verdict is not Verdict.OPEN:
            break
    return verdict, sampling, whole


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("metric", ["top1", "agreement", "cosine"])
@pytest.mark.parametrize("noise", [0.02, 1.5])
def test_a_stopped_evaluation_answers_for_all_samples(metric, kind, noise):
    verdict, sampling, whole = sampled(metric, 0.05, kind, noise)
    assert verdict is (Verdict.WITHIN if whole.drop(kind) <= 0.05 else Verdict.BEYOND)
    assert sampling.fraction < 1
    estimate = sampling.estimate()
    # without any change among the samples read, the rule of three says what the others may hold
    assert abs(estimate.mean - whole.drop(kind)) < max(4 * estimate.stderr, 3 / sampling.samples)


@pytest.mark.parametrize("kind", KINDS)
def test_of_all_samples_drop_and_error_are_the_measurements_own(kind):
    before, after, labels = outputs(0.5)
    whole = measure("top1", before, after, labels)
    sampling = Sampling(measure("top1", before, before, labels), whole.drop(kind), kind)
    for read in np.random.default_rng(0).permutation(SAMPLES).reshape(12, -1):
        sampling.add(part(whole, read), read)
    assert sampling.fraction == 1
    assert sampling.estimate().mean == pytest.approx(whole.drop(kind), rel=1e-12)
    assert sampling.estimate().stderr == pytest.approx(whole.stderr(kind), rel=1e-12)


def test_the_relative_estimate_has_the_error_it_states():
    """500 draws of half of the samples, against the spread of their estimates."""
    before, after, labels = outputs(1.0)
    whole = measure("top1", before, after, labels)
    population = measure("top1", before, before, labels)
    generator = np.random.default_rng(5)
    estimates = []
    for _ in range(500):
        sampling = Sampling(population, 0.05, DropKind.RELATIVE)
        read = generator.permutation(SAMPLES)[: SAMPLES // 2]
        sampling.add(part(whole, read), read)
        estimates.append(sampling.estimate())
    means = np.array([estimate.mean for estimate in estimates])
    assert means.mean() == pytest.approx(whole.drop(DropKind.RELATIVE), abs=4 * means.std() / np.sqrt(500))
    stated = np.mean([estimate.stderr for estimate in estimates])
    assert stated == pytest.approx(whole.stderr(DropKind.RELATIVE) * 2**0.5, rel=0.05)
    # half of all samples without replacement: half of the variance is in the samples that there are
    assert means.std() == pytest.approx(stated / 2**0.5, rel=0.15)


def test_a_kl_with_its_wide_bounds_is_still_stopped_when_it_is_hopeless():
    verdict, sampling, _ = sampled("kl", 1e-6, DropKind.ABSOLUTE, 1.0)
    assert verdict is Verdict.BEYOND
    assert sampling.samples <= 50


def test_nothing_is_stopped_before_a_standard_error_means_something():
    before, _, labels = outputs(0.0)
    wrong = np.roll(before, 1, axis=1)
    whole = measure("top1", before, wrong, labels)
    sampling = Sampling(measure("top1", before, before, labels), 0.01, DropKind.ABSOLUTE)
    verdicts = [sampling.add(part(whole, read), read) for read in np.arange(48)[:, None]]
    assert verdicts.index(Verdict.BEYOND) == FEWEST_SAMPLES - 1


def test_a_part_without_anything_to_lose_does_not_matter_if_there_is_something_elsewhere():
    before, after, labels = outputs(0.5)
    population = measure("top1", before, before, labels)
    read = np.flatnonzero(population.references == 0)[:40]
    sampling = Sampling(population, 0.05, DropKind.RELATIVE)
    sampling.add(part(measure("top1", before, after, labels), read), read)
    assert np.isfinite(sampling.estimate().mean)


def test_a_relative_drop_of_nothing_is_refused():
    before, _, _ = outputs(0.1)
    nothing = measure("top1", before, before, (before.argmax(1) + 1) % CLASSES)
    sampling = Sampling(nothing, 0.05, DropKind.RELATIVE)
    read = np.arange(40)
    sampling.add(part(nothing, read), read)
    with pytest.raises(MetricNotApplicable, match="something to lose"):
        sampling.estimate()

"""Metrics against plain loops over samples and positions."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.errors import DatasetLabelsOutOfRange, MetricNotApplicable
from evaluation.metrics.classes import UNUSABLE_KL
from evaluation.metrics.measurement import DropKind, Measurement
from tests.evaluation.measuring import BASIC, KINDS, measure

shapes = st.sampled_from([(1, 2), (7, 2), (40, 5), (6, 3, 4), (5, 2, 3, 4)])


def outputs(shape: tuple[int, ...], seed: int, noise: float = 0.7) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Float outputs, quantized outputs, labels that are mostly right."""
    generator = np.random.default_rng(seed)
    before = generator.standard_normal(shape).astype(np.float32) * 2
    after = (before + noise * generator.standard_normal(shape)).astype(np.float32)
    labels = np.where(
        generator.random(shape[:-1]) < 0.8, before.argmax(-1), generator.integers(0, shape[-1], shape[:-1])
    )
    return before, after, labels


def softmax(row: np.ndarray) -> np.ndarray:
    e = np.exp(row.astype(np.float64) - float(row.max()))
    return e / e.sum()


def positions(array: np.ndarray, sample: int) -> list[np.ndarray]:
    return list(array[sample].reshape(-1, array.shape[-1]))


@given(shape=shapes, seed=st.integers(0, 2**32 - 1))
def test_top1_is_the_mean_over_positions_and_samples(shape: tuple[int, ...], seed: int) -> None:
    before, after, labels = outputs(shape, seed)
    measured = measure("top1", before, after, labels)
    scores = np.array(
        [
            [
                np.mean([int(np.argmax(p)) == t for p, t in zip(positions(z, s), labels[s].reshape(-1), strict=True)])
                for z in (before, after)
            ]
            for s in range(shape[0])
        ]
    )
    np.testing.assert_allclose(measured.contributions, scores[:, 0] - scores[:, 1], atol=1e-15)
    assert measured.float_value == pytest.approx(scores[:, 0].mean())
    assert measured.quantized_value == pytest.approx(scores[:, 1].mean())
    assert measured.drop() == pytest.approx(measured.float_value - measured.quantized_value, abs=1e-15)
    if len(shape) == 2:
        assert measured.right_to_wrong == int(((scores[:, 0] == 1) & (scores[:, 1] == 0)).sum())
        assert measured.wrong_to_right == int(((scores[:, 0] == 0) & (scores[:, 1] == 1)).sum())
    else:
        assert measured.right_to_wrong is None
        assert measured.wrong_to_right is None


@given(shape=shapes, seed=st.integers(0, 2**32 - 1))
def test_agreement_is_top1_against_the_float_classes(shape: tuple[int, ...], seed: int) -> None:
    before, after, _ = outputs(shape, seed)
    measured = measure("agreement", before, after)
    oracle = measure("top1", before, after, before.argmax(-1))
    np.testing.assert_allclose(measured.contributions, oracle.contributions, atol=1e-15)
    assert measured.float_value == 1.0
    assert measured.quantized_value == pytest.approx(oracle.quantized_value)


@given(shape=shapes, seed=st.integers(0, 2**32 - 1))
def test_kl_is_that_of_the_softmaxes(shape: tuple[int, ...], seed: int) -> None:
    before, after, _ = outputs(shape, seed)
    measured = measure("kl", before, after)
    for sample in range(shape[0]):
        pairs = [
            (softmax(a), softmax(b)) for a, b in zip(positions(before, sample), positions(after, sample), strict=True)
        ]
        expected = np.mean([(p * np.log(p / q)).sum() for p, q in pairs])
        assert measured.contributions[sample] == pytest.approx(expected, rel=1e-9, abs=1e-14)
        assert measured.references[sample] == pytest.approx(np.mean([-(p * np.log(p)).sum() for p, _ in pairs]))
    assert measured.float_value == 0.0
    assert measured.quantized_value == measured.drop() == pytest.approx(measured.contributions.mean())
    assert measured.right_to_wrong is None


@given(shape=shapes, seed=st.integers(0, 2**32 - 1))
def test_kl_takes_distributions_as_they_are(shape: tuple[int, ...], seed: int) -> None:
    before, after, _ = outputs(shape, seed)
    p, q = (np.apply_along_axis(softmax, -1, z).astype(np.float32) for z in (before, after))
    np.testing.assert_allclose(
        measure("kl", p, q).contributions, measure("kl", before, after).contributions, rtol=1e-3, atol=1e-6
    )


@given(shape=shapes, seed=st.integers(0, 2**32 - 1))
def test_cosine_is_that_of_the_flattened_outputs(shape: tuple[int, ...], seed: int) -> None:
    before, after, _ = outputs(shape, seed)
    measured = measure("cosine", before, after)
    for sample in range(shape[0]):
        x, y = before[sample].ravel().astype(np.float64), after[sample].ravel().astype(np.float64)
        assert measured.contributions[sample] == pytest.approx(1 - x @ y / math.sqrt((x @ x) * (y @ y)), abs=1e-12)


@pytest.mark.parametrize("metric", BASIC)
def test_equal_outputs_drop_nothing(metric: str) -> None:
    before, _, labels = outputs((50, 6), 0)
    measured = measure(metric, before, before, labels)
    assert measured.drop() == pytest.approx(0.0, abs=1e-15)
    assert measured.stderr() == pytest.approx(0.0, abs=1e-15)
    assert measured.drop(DropKind.RELATIVE) == pytest.approx(0.0, abs=1e-15)


@pytest.mark.parametrize("metric", BASIC)
def test_more_noise_drops_more(metric: str) -> None:
    drops = [
        measure(metric, before, after, labels).drop()
        for before, after, labels in (outputs((2000, 6), 1, noise) for noise in (0.1, 0.5, 2.0, 8.0))
    ]
    assert drops == sorted(drops)
    assert drops[0] < drops[-1]


def test_values_are_computed_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    before, after, _ = outputs((40, 5), 3)
    whole = [measure(metric, before, after).contributions for metric in ("kl", "cosine")]
    monkeypatch.setattr("evaluation.metrics.pair._CHUNK_ELEMENTS", 17)
    for metric, contributions in zip(("kl", "cosine"), whole, strict=True):
        np.testing.assert_array_equal(measure(metric, before, after).contributions, contributions)


# --- drops and their standard errors ----------------------------------------------------------------------------


def test_kinds_of_drop() -> None:
    labels = np.zeros(10, np.int64)
    right, wrong = [1.0, 0.0], [0.0, 1.0]
    before = np.array([right] * 8 + [wrong] * 2)
    after = np.array([right] * 6 + [wrong] * 3 + [right])
    measured = measure("top1", before, after, labels)
    assert (measured.float_value, measured.quantized_value) == (0.8, 0.7)
    assert (measured.right_to_wrong, measured.wrong_to_right) == (2, 1)
    assert measured.drop() == 0.1  # exactly: a budget of 0.1 is met
    assert measured.drop(DropKind.RELATIVE) == 0.125
    # Paired: mean 0.1, squares 3/10, so variance (3/10 - 1/100) 10/9.
    assert measured.stderr() == pytest.approx(math.sqrt((0.3 - 0.01) / 9))


def test_a_relative_drop_of_nothing_is_refused() -> None:
    before = np.array([[1.0, 0.0]] * 4)
    measured = measure("top1", before, before, np.ones(4, np.int64))
    with pytest.raises(MetricNotApplicable, match="absolute"):
        measured.drop(DropKind.RELATIVE)


@pytest.mark.parametrize("metric", BASIC)
@pytest.mark.parametrize("kind", KINDS)
def test_the_standard_error_is_the_spread_over_data_sets(metric: str, kind: DropKind) -> None:
    """Over 400 seeded data sets of 300 samples. The spread of 400 values is known to within 1/sqrt(800) = 3.5 %; five
    times that, with 5 % for what is not linear, fails by chance less than once in 10,000."""
    estimates = []
    for seed in range(400):
        before, after, labels = outputs((300, 4), seed)
        measured = measure(metric, before, after, labels)
        estimates.append((measured.drop(kind), measured.stderr(kind)))
    drops, errors = np.array(estimates).T
    assert np.sqrt((errors**2).mean()) == pytest.approx(drops.std(ddof=1), rel=0.22)


def test_one_sample_has_no_standard_error() -> None:
    before, after, _ = outputs((1, 3), 0)
    assert math.isnan(measure("kl", before, after).stderr())


def test_a_measurement_is_checked() -> None:
    with pytest.raises(ValueError, match="samples"):
        Measurement("kl", 0.0, 0.0, np.zeros(3), np.zeros(2), counts=False)
    with pytest.raises(ValueError, match="at least one"):
        Measurement("kl", 0.0, 0.0, np.zeros(0), np.zeros(0), counts=False)


# --- what cannot be measured ------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_quantized_output_that_is_not_finite_is_the_worst(bad: float) -> None:
    before, _, _ = outputs((20, 4), 0)
    after = before.copy()
    after[3, 0] = bad
    labels = before.argmax(-1)
    labels[3] = 0
    before[3] = [5.0, 1.0, 1.0, 1.0]
    after[3, 1:] = 1.0
    assert measure("top1", before, after, labels).contributions[3] == 1.0
    assert measure("agreement", before, after).contributions[3] == 1.0
    assert measure("kl", before, after).contributions[3] == UNUSABLE_KL
    assert measure("cosine", before, after).contributions[3] == 2.0
    for metric in BASIC:
        assert measure(metric, before, after, labels).contributions.sum() == pytest.approx(
            measure(metric, before, after, labels).contributions[3], abs=1e-12
        )


def test_a_class_that_is_ruled_out_costs_nothing() -> None:
    before = np.array([[0.0, 1.0, -np.inf]])
    assert measure("kl", before, before).drop() == 0.0
    assert measure("agreement", before, before).drop() == 0.0
    assert measure("kl", np.array([[0.0, 1.0, 2.0]]), before).drop() == UNUSABLE_KL


@pytest.mark.parametrize("metric", ["agreement", "kl", "cosine"])
def test_a_float_output_that_is_not_finite_is_refused(metric: str) -> None:
    before, after, _ = outputs((20, 4), 0)
    before[7, 2] = np.nan
    with pytest.raises(MetricNotApplicable, match="sample 7"):
        measure(metric, before, after)


def test_what_a_metric_needs() -> None:
    before, after, labels = outputs((20, 4), 0)
    with pytest.raises(MetricNotApplicable, match="agreement"):
        measure("top1", before, after)
    with pytest.raises(DatasetLabelsOutOfRange):
        measure("top1", before, after, labels + 4)
    with pytest.raises(MetricNotApplicable, match=r"labels \[20\]"):
        measure("top1", before, after, np.zeros((20, 2), np.int64))
    with pytest.raises(MetricNotApplicable, match="ArgMax"):
        measure("agreement", before.argmax(-1), after.argmax(-1))
    with pytest.raises(MetricNotApplicable, match="use explained"):
        measure("kl", before[:, :1], after[:, :1])
    with pytest.raises(MetricNotApplicable, match="same samples"):
        measure("kl", before, after[:10])
    with pytest.raises(MetricNotApplicable, match="no metric 'top42'"):
        measure("top42", before, after, labels)


def test_cosine_of_zeros() -> None:
    zero, one = np.zeros((1, 3)), np.ones((1, 3))
    assert measure("cosine", zero, zero).drop() == 0.0
    assert measure("cosine", zero, one).drop() == 1.0
    assert measure("cosine", -one, one).drop() == pytest.approx(2.0)

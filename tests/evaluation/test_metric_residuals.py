"""Errors of continuous outputs against scikit-learn and plain formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics

from evaluation.errors import DatasetError, MetricNotApplicable
from evaluation.metrics import residuals
from evaluation.metrics.measurement import DropKind, Measurement
from evaluation.metrics.pair import Pair
from evaluation.metrics.registry import METRICS, metric_of
from evaluation.metrics.truth import Truth

NAMES = ("mse", "mae", "r2", "sqnr_db")


def measure(name, before, after, targets=None, **options) -> list[Measurement]:
    truth = Truth({} if targets is None else {"targets": targets})
    return list(metric_of(name).measure(Pair(("y",), (before,), (after,), truth, options)))


def case(samples=60, noise=0.2, seed=0, shape=(3,)):
    generator = np.random.default_rng(seed)
    targets = generator.normal(size=(samples, *shape)).astype(np.float32) * 4 + 1
    before = (targets + 0.3 * generator.normal(size=targets.shape)).astype(np.float32)
    after = (before + noise * generator.normal(size=targets.shape)).astype(np.float32)
    return before, after, targets


def test_errors_against_targets_are_those_of_scikit_learn():
    before, after, targets = case()
    flat = targets.reshape(-1), before.reshape(-1), after.reshape(-1)
    for name, oracle in (("mse", sklearn_metrics.mean_squared_error), ("mae", sklearn_metrics.mean_absolute_error)):
        (measured,) = measure(name, before, after, targets)
        assert measured.float_value == pytest.approx(oracle(flat[0], flat[1]), rel=1e-6)
        assert measured.quantized_value == pytest.approx(oracle(flat[0], flat[2]), rel=1e-6)
        assert measured.drop() == pytest.approx(measured.quantized_value - measured.float_value)
        assert measured.drop(DropKind.RELATIVE) == pytest.approx(measured.drop() / measured.float_value)


def test_errors_without_targets_are_distances_from_the_float_outputs():
    before, after, _ = case()
    (measured,) = measure("mse", before, after)
    assert measured.float_value == 0.0
    assert measured.drop() == pytest.approx(np.square(after.astype(float) - before).mean())
    assert measured.drop(DropKind.RELATIVE) == pytest.approx(measured.drop() / np.square(before.astype(float)).mean())


def test_r2_is_that_of_scikit_learn_for_each_channel():
    before, after, targets = case()
    parts = measure("r2", before, after, targets)
    assert [part.part for part in parts] == ["y[0]", "y[1]", "y[2]"]
    for channel, part in enumerate(parts):
        own, value = (
            sklearn_metrics.r2_score(targets[:, channel].astype(float), each[:, channel]) for each in (before, after)
        )
        assert part.float_value == pytest.approx(own, rel=1e-6)
        assert part.quantized_value == pytest.approx(value, rel=1e-6)
        assert part.drop() == pytest.approx(own - value)
        assert part.drop(DropKind.RELATIVE) == pytest.approx((own - value) / own)


def test_r2_without_targets_is_the_share_explained():
    before, after, _ = case()
    parts, oracle = measure("r2", before, after), measure("explained", before, after)
    assert [part.metric for part in parts] == ["r2"] * 3
    assert [part.drop() for part in parts] == [part.drop() for part in oracle]


def test_sqnr_is_the_ratio_of_powers():
    before, after, targets = case()
    noise = np.square(after.astype(float) - before).sum()
    (measured,) = measure("sqnr_db", before, after)
    assert measured.quantized_value == pytest.approx(10 * math.log10(np.square(before.astype(float)).sum() / noise))
    assert measured.float_value == 100.0
    (measured,) = measure("sqnr_db", before, after, targets)
    power = np.square(targets.astype(float)).sum()
    wanted = [10 * math.log10(power / np.square(each.astype(float) - targets).sum()) for each in (before, after)]
    assert [measured.float_value, measured.quantized_value] == pytest.approx(wanted)
    assert measured.drop() == pytest.approx(wanted[0] - wanted[1])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("with_targets", [False, True])
def test_equal_outputs_lose_nothing_noise_loses_more_and_a_null_network_most(name, with_targets):
    before, _, targets = case()
    targets = targets if with_targets else None
    assert [part.drop() for part in measure(name, before, before.copy(), targets)] == pytest.approx(
        [0.0] * (3 if name == "r2" else 1)
    )
    drops = [
        max(part.drop() for part in measure(name, before, case(noise=noise)[1], targets)) for noise in (0.1, 0.4, 1.6)
    ]
    others = max(part.drop() for part in measure(name, before, np.roll(before, 1, axis=0), targets))
    mean = max(part.drop() for part in measure(name, before, np.zeros_like(before) + before.mean(0), targets))
    assert drops == sorted(drops)
    assert min(others, mean) > drops[-1] > 0
    if name == "r2":
        assert mean == pytest.approx(1.0, abs=0.03)


@pytest.mark.parametrize("name", NAMES)
def test_a_value_that_is_not_finite_is_worse_than_any_network(name):
    before, after, targets = case()
    for wrong in (np.nan, np.inf, -np.inf):
        broken = after.copy()
        broken[5, 1] = wrong
        for truth in (None, targets):
            worst = max(part.drop() for part in measure(name, before, broken, truth))
            null = max(part.drop() for part in measure(name, before, np.roll(before, 1, axis=0), truth))
            assert math.isfinite(worst)
            assert worst > null


def test_targets_may_have_an_axis_of_one_more_or_less():
    before, after, targets = case(shape=(1,))
    drops = [measure("mae", before, after, each)[0].drop() for each in (targets, targets[:, 0], targets[:, None])]
    drops.append(measure("mae", before[:, 0], after[:, 0], targets)[0].drop())
    assert drops == [drops[0]] * 4


def test_scale_and_shift_change_what_they_should():
    before, after, targets = case()
    scaled = [2 * each + 3 for each in (before, after, targets)]
    assert measure("mae", *scaled)[0].drop() == pytest.approx(2 * measure("mae", before, after, targets)[0].drop())
    assert measure("mse", *scaled)[0].drop() == pytest.approx(4 * measure("mse", before, after, targets)[0].drop())
    for one, other in zip(measure("r2", *scaled), measure("r2", before, after, targets), strict=True):
        assert one.drop() == pytest.approx(other.drop(), rel=1e-5)
    double = measure("sqnr_db", 2 * before, 2 * after)[0]
    assert double.drop() == pytest.approx(measure("sqnr_db", before, after)[0].drop())


@pytest.mark.parametrize("name", ["r2", "sqnr_db"])
def test_the_standard_error_is_the_spread_over_data_sets(name):
    found = [measure(name, *case(100, 1.0, seed, (1,)))[0] for seed in range(300)]
    spread = np.std([each.drop() for each in found], ddof=1)
    assert np.mean([each.stderr() for each in found]) == pytest.approx(spread, rel=0.15)


def test_a_broken_cap_is_noticed(monkeypatch):
    before, after, _ = case()
    after[5, 1] = np.nan
    worst = measure("mse", before, after)[0].drop()
    monkeypatch.setattr(residuals, "MOST_ERROR", 0.1)
    assert measure("mse", before, after)[0].drop() < worst / 1e6


@pytest.mark.parametrize(
    ("before", "targets", "options", "text"),
    [
        (np.zeros((4, 2), np.float32), np.zeros((4, 3), np.float32), {}, r"targets have the shape \[4, 3\].*\[4, 2\]"),
        (np.zeros((4, 2), np.float32), np.full((4, 2), np.nan, np.float32), {}, "targets of sample 0 are NaN"),
        (np.zeros((4, 2), np.int64), None, {}, "holds int64"),
        (np.zeros((0, 2), np.float32), None, {}, r"got \[0, 2\]"),
        (np.array([[0.0], [np.nan]]), None, {}, "NaN or infinity in output 'y' for sample 1"),
        (np.full((4, 2), 1e200), None, {}, "scale the network's output"),
        (np.zeros((4, 2), np.float32), None, {"axis": 2}, "no axis of channels 2; expected 1 to 1"),
        (np.zeros((4, 2), np.float32), None, {"axis": 0}, "no axis of channels 0"),
    ],
)
def test_what_cannot_be_measured_is_refused(before, targets, options, text):
    with pytest.raises(MetricNotApplicable, match=text):
        measure("r2", before, before, targets, **options)


VALUES = st.sampled_from([0.0, 1.0, -1.0, 1e-30, 1e30, 1e300, np.nan, np.inf, -np.inf])


@settings(max_examples=150, deadline=None)
@given(
    name=st.sampled_from([*NAMES, "explained", "cosine", "rank_correlation", "recall_at_k"]),
    shape=st.sampled_from([(), (0,), (1,), (2,), (5,), (5, 1), (5, 2), (5, 0), (4, 2, 3), (3, 1, 1, 2)]),
    dtype=st.sampled_from([np.float16, np.float32, np.float64, np.int64, np.bool_]),
    special=st.lists(VALUES, max_size=2),
    truth=st.sampled_from([None, (5,), (5, 1), (4, 2, 3), (2,)]),
    axis=st.sampled_from([None, -9, -1, 0, 1, 2]),
    k=st.sampled_from([None, 0, 1, 4, 5]),
    seed=st.integers(0, 99),
)
def test_anything_ends_in_a_measurement_or_a_refusal(name, shape, dtype, special, truth, axis, k, seed):
    generator = np.random.default_rng(seed)
    before = generator.normal(size=shape).astype(dtype)
    after = np.array(generator.normal(size=shape).astype(dtype))
    with np.errstate(all="ignore"):
        after.reshape(-1)[: len(special)] = np.array(special).astype(dtype)[: after.size]
    kind = "targets" if seed % 2 else "labels"
    arrays = {} if truth is None else {kind: generator.integers(-1, 3, truth)}
    pair = Pair(("y",), (before,), (after,), Truth(arrays), {"axis": axis, "k": k})
    try:
        parts = METRICS[name].measure(pair)
    except (MetricNotApplicable, DatasetError):
        return
    for part in parts:
        assert np.isfinite(part.contributions).all()
        assert np.isfinite([part.float_value, part.quantized_value]).all()
        if part.weighted is not None:
            assert np.isfinite(part.weighted(generator.multinomial(5, np.ones(shape[0]) / shape[0], 7) * 1.0)).all()


def test_the_standard_error_of_a_relative_r2_is_the_spread_over_data_sets():
    def poor(seed):
        before, after, targets = case(100, 1.0, seed, (1,))
        before = before + 2.5 * np.random.default_rng(seed + 999).normal(size=before.shape)
        return measure("r2", before, after - 3, targets)[0]

    found = [poor(seed) for seed in range(300)]
    spread = np.std([each.drop(DropKind.RELATIVE) for each in found], ddof=1)
    assert np.median([each.stderr(DropKind.RELATIVE) for each in found]) == pytest.approx(spread, rel=0.3)

"""Certificates: what meets a budget, and what they say about the number of samples."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import numpy as np
import pytest

from evaluation.certificate import Certificate
from evaluation.certifying import Terms
from evaluation.certifying import certify as certify_claims
from evaluation.errors import MetricNotApplicable
from evaluation.intervals import difference_interval, proportion_interval, relative_interval
from evaluation.metrics.claim import Measured
from evaluation.metrics.measurement import DropKind, Measurement
from tests.evaluation.measuring import BASIC, KINDS, measure


def certify(measurement: Measurement, max_drop: float, **terms) -> Certificate:
    """The certificate of a job with this only claim."""
    if "kind" in terms:
        terms["kind"] = DropKind(terms["kind"])
    return certify_claims(Measured.of(measurement), Terms(max_drop, **terms))


def counted(lost: int, won: int, right: int, samples: int, metric: str = "top1") -> Measurement:
    """A measurement with these counts, from outputs of a network with two classes."""
    before = np.zeros(samples)
    before[:right] = 1
    after = before.copy()
    after[:lost] = 0
    after[right : right + won] = 1
    rows = np.array([[0.0, 1.0], [1.0, 0.0]])
    labels = np.zeros(samples, np.int64)
    return measure(metric, rows[before.astype(int)], rows[after.astype(int)], labels)


def test_without_confidence_the_drop_itself_must_meet_the_budget() -> None:
    certificate = certify(counted(12, 3, 800, 900), 0.01)
    assert certificate.drop == 0.01
    assert certificate.met
    assert not certify(counted(13, 3, 800, 900), 0.01).met
    assert (certificate.right_to_wrong, certificate.wrong_to_right) == (12, 3)
    assert (certificate.metric, certificate.kind, certificate.samples) == ("top1", "absolute", 900)
    interval = difference_interval(12, 3, 900, 0.95)
    assert (certificate.low, certificate.high, certificate.level) == (interval.low, interval.high, 0.95)


def test_with_confidence_the_upper_end_must_meet_it() -> None:
    measurement = counted(4, 3, 800, 900)
    high = difference_interval(4, 3, 900, 0.9).high
    assert certify(measurement, high + 1e-9, confidence=0.9).met
    assert not certify(measurement, high - 1e-9, confidence=0.9).met
    assert certify(measurement, high - 1e-9).met
    # Even no change at all does not prove 1 point with 100 samples; with 1,000 it does.
    assert not certify(counted(0, 0, 90, 100), 0.01, confidence=0.95).met
    assert certify(counted(0, 0, 900, 1000), 0.01, confidence=0.95).met


def test_every_look_costs() -> None:
    measurement = counted(9, 3, 800, 900)
    once, often = certify(measurement, 0.02), certify(measurement, 0.02, looks=5)
    expected = difference_interval(9, 3, 900, 0.99)
    assert (often.low, often.high) == pytest.approx((expected.low, expected.high))
    assert often.level == once.level == 0.95
    assert often.low < once.low
    assert often.high > once.high
    assert "5 looks" in often.statement
    assert "looks" not in once.statement


def test_relative_drops() -> None:
    certificate = certify(counted(12, 4, 400, 900), 0.02, kind="relative")
    assert certificate.drop == 0.02
    assert certificate.met
    interval = relative_interval(12, 4, 400, 900, 0.95)
    assert (certificate.low, certificate.high) == pytest.approx((interval.low, interval.high))
    with pytest.raises(MetricNotApplicable):
        certify(counted(0, 4, 0, 900), 0.02, kind=DropKind.RELATIVE)


def test_agreement_is_a_proportion() -> None:
    certificate = certify(counted(12, 3, 800, 900, "agreement"), 0.02)
    interval = proportion_interval(15, 900, 0.95)
    assert (certificate.low, certificate.high) == (interval.low, interval.high)
    assert (certificate.float_value, certificate.right_to_wrong, certificate.wrong_to_right) == (1.0, 15, 0)


@pytest.mark.parametrize("metric", ["kl", "cosine"])
@pytest.mark.parametrize("kind", ["absolute", "relative"])
def test_means_are_bootstrapped(metric: str, kind: str) -> None:
    generator = np.random.default_rng(0)
    before = generator.standard_normal((400, 5))
    measurement = measure(metric, before, before + 0.1 * generator.standard_normal((400, 5)))
    certificate = certify(measurement, 0.5, kind=kind, seed=1)
    assert certificate.low < certificate.drop < certificate.high
    half_width = 1.96 * measurement.stderr(DropKind(kind))
    assert certificate.high - certificate.drop == pytest.approx(half_width, rel=0.3)
    assert certificate.right_to_wrong is None
    assert certificate == certify(measurement, 0.5, kind=kind, seed=1)


@pytest.mark.parametrize("metric", ["top1", "agreement"])
def test_positions_of_a_sequence_do_not_count_as_samples(metric: str) -> None:
    """All 50 positions of a sample change together: the interval must be that of 100 samples, not of 5,000."""
    rows = np.array([[1.0, 0.0], [0.0, 1.0]])
    changed = np.arange(100) < 20
    before = np.broadcast_to(rows[0], (100, 50, 2))
    after = np.broadcast_to(rows[changed.astype(int)][:, None, :], (100, 50, 2))
    certificate = certify(measure(metric, before, after, np.zeros((100, 50), np.int64)), 0.3)
    assert certificate.drop == pytest.approx(0.2)
    assert certificate.high - certificate.low == pytest.approx(2 * 1.96 * np.sqrt(0.2 * 0.8 / 100), rel=0.3)
    unchanged = certify(measure(metric, before, before, np.zeros((100, 50), np.int64)), 0.3)
    assert unchanged.high == pytest.approx(proportion_interval(0, 100, 0.95).high)


def test_the_statement_says_what_the_samples_can_show() -> None:
    certificate = certify(counted(12, 3, 800, 900), 0.01)
    assert "900 held-out samples" in certificate.statement
    assert "1 points" in certificate.statement
    assert "One sample is 0.111 points" in certificate.statement
    fewest = round(certificate.resolution * 900)
    assert difference_interval(fewest, 0, 900, 0.95).low > 0
    assert difference_interval(fewest - 1, 0, 900, 0.95).low <= 0
    assert "graph's shapes" not in certificate.statement
    synthetic = certify(counted(12, 3, 800, 900), 0.01, synthetic=True)
    assert synthetic.synthetic
    assert "graph's shapes" in synthetic.statement


@pytest.mark.parametrize("metric", BASIC)
@pytest.mark.parametrize("kind", KINDS)
def test_certificates_are_plain_values(metric: str, kind: DropKind) -> None:
    generator = np.random.default_rng(0)
    before = generator.standard_normal((200, 5)).astype(np.float32)
    after = before + np.float32(0.3) * generator.standard_normal((200, 5)).astype(np.float32)
    certificate = certify(measure(metric, before, after, before.argmax(1)), 0.1, kind=kind, confidence=0.9)
    values = json.loads(json.dumps(asdict(certificate), allow_nan=False))
    assert values["claims"][0]["metric"] == values["metric"] == metric
    assert {name: value for name, value in values.items() if name != "claims"} == {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in asdict(certificate).items()
        if name != "claims"
    }


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"max_drop": -0.1}, "max_drop"),
        ({"max_drop": float("nan")}, "max_drop"),
        ({"max_drop": 0.1, "looks": 0}, "looks"),
        ({"max_drop": 0.1, "confidence": 1.0}, "level"),
        ({"max_drop": 0.1, "kind": "percent"}, "percent"),
    ],
)
def test_arguments_are_checked(arguments: dict[str, float], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        certify(counted(12, 3, 800, 900), **arguments)


def test_values_are_checked() -> None:
    certificate = certify(counted(12, 3, 800, 900), 0.01)
    with pytest.raises(ValueError, match="low <= high"):
        replace(certificate, low=1.0, high=0.0)
    with pytest.raises(ValueError, match="samples"):
        replace(certificate, samples=0)
    with pytest.raises(ValueError, match="2 samples"):
        certify(counted(0, 0, 1, 1), 0.01)


def test_a_rare_change_of_what_has_no_bounds_has_an_interval_that_ends() -> None:
    """One sample in two hundred differs, so that most resamples have no spread at all."""
    contributions = np.zeros(200)
    contributions[17] = 5.0
    for sign in (1.0, -1.0):
        certificate = certify(Measurement("r2", 1.0, 1.0, sign * contributions, np.ones(200)), 0.01, confidence=0.95)
        assert np.isfinite([certificate.low, certificate.high]).all()
        assert certificate.low < sign * 0.025 < certificate.high
    # all differ by the same but one
    certificate = certify(Measurement("r2", 1.0, 0.0, 1.0 - contributions, np.ones(200)), 0.01)
    assert np.isfinite([certificate.low, certificate.high]).all()

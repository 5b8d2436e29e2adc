"""Counting intervals that hold the truth: right ones are counted, and too narrow ones are noticed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.certificates import coverage
from benchmarks.certificates.coverage import Coverage, JobKind, MetricKind, of_jobs, of_metric, summary


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setattr(coverage, "POPULATION", 4_000)


KIND = MetricKind("agreement", "digits_agreement", ("logits",), truth=False)


def test_intervals_of_agreement_hold_the_truth():
    found = of_metric(KIND, sets=20)
    assert found.of == 20
    # Clopper and Pearson: at least 95 %; fewer than 16 of 20 have a chance below 0.003
    assert found.held >= 16
    assert found.width > 0


def test_intervals_that_are_too_narrow_are_noticed(monkeypatch):
    honest = coverage.certify

    def narrow(measured, terms):
        certificate = honest(measured, terms)
        return replace(certificate, low=certificate.drop, high=certificate.drop)

    monkeypatch.setattr(coverage, "certify", narrow)
    found = of_metric(KIND, sets=20)
    assert found.held <= 4
    assert 0 < found.above < 20


def test_a_metric_that_is_not_there_is_named_and_not_counted():
    missing = of_metric(MetricKind("unheard_of", "digits_agreement", ("logits",)))
    figures = summary([missing, Coverage("job", 9, 10, whole_jobs=True), Coverage("kl of x", 5, 5)])
    assert missing.of == 0
    assert figures["not_covered"] == ["unheard_of of digits_agreement"]
    assert (figures["interval_coverage"], figures["jobs"]) == (0.9, 10)
    assert (figures["certificate_coverage"], figures["certificates"]) == (1.0, 5)


def test_whole_jobs_are_counted_with_the_truth_of_their_own_files():
    found = of_jobs(JobKind("cell_by_hand", {"max_drop": 0.05}), 0, 1)
    assert (found.of, found.missing, found.whole_jobs) == (1, "", True)
    assert np.isfinite(found.width)

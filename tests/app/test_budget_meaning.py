"""Budgets in sentences: every metric has one, and the numbers in it are those of the intervals of the certificate."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from app.schemas.budget import Budget, MetricName
from app.schemas.budget_meaning import (
    HELD_OUT_SHARE,
    SYNTHETIC_SAMPLES,
    least_samples,
    meaning,
    unchanged_end,
)
from app.schemas.metric_words import ABSOLUTE, NOUNS
from evaluation.intervals import difference_interval, proportion_interval
from evaluation.splits import HELD_OUT_SHARE as TRUE_SHARE
from evaluation.splits import split
from pipeline.workspace import SYNTHETIC_SAMPLES as TRUE_SYNTHETIC


def test_shares_are_those_of_the_pipeline() -> None:
    assert (HELD_OUT_SHARE, SYNTHETIC_SAMPLES) == (TRUE_SHARE, TRUE_SYNTHETIC)


def test_every_metric_has_words() -> None:
    assert set(ABSOLUTE) == set(NOUNS) == {None, *get_args(MetricName)}


KINDS = [
    (metric, kind)
    for metric in (None, *get_args(MetricName))
    for kind in ("absolute", "relative", "of_null")
    if (metric, kind) != ("kl", "relative")  # which is refused
]


@pytest.mark.parametrize(("metric", "kind"), KINDS)
@pytest.mark.parametrize("max_drop", [0.0, 0.01])
@pytest.mark.parametrize("confidence", [None, 0.9])
def test_every_budget_has_whole_sentences(metric: Any, kind: Any, max_drop: float, confidence: float | None) -> None:
    budget = Budget(metric=metric, kind=kind, max_drop=max_drop, confidence=confidence)

    for said in (meaning(budget), meaning(budget, 1000), meaning(budget, synthetic=True)):
        for sentence in said.sentences:
            assert sentence.endswith(".")
            assert "None" not in sentence
            assert "{" not in sentence


@pytest.mark.parametrize(
    ("members", "promise"),
    [
        ({"metric": "top1"}, "At most 1 of 100 held-out samples more may be classified wrongly than by your network."),
        ({"metric": "top1", "max_drop": 0.0125}, "At most 125 of 10,000 held-out samples more"),
        ({"metric": "top1", "max_drop": 1 / 3}, "At most 33.3 of 100 held-out samples more"),
        ({"metric": "top1", "max_drop": 1e-7}, "At most 0.1 of 1,000,000 held-out samples more"),
        ({"metric": "top1", "kind": "relative"}, "at most 1 % of your network's own value: where that is 80 %, down"),
        ({"metric": "perplexity", "kind": "relative"}, "where that is 20, up to 20.2."),
        ({"metric": "top5", "options": {"k": 3}}, "among the 3 highest"),
        ({"metric": "explained", "max_drop": 0.02}, "At least 98 % of the variance"),
        ({"metric": "sqnr_db", "max_drop": 60.0}, "at least 40 dB above"),
        (
            {"metric": "mse", "max_drop": 0.05},
            "At most 5 % may be lost of what a network would lose that knows nothing",
        ),
        ({"metric_id": "a" * 64, "options": {"higher_is_better": False}}, "your own metric may rise by at most 0.01."),
        ({"metric": "auc", "max_drop": 0.0}, "Nothing may be lost: the area under the ROC curve"),
    ],
)
def test_promise(members: dict[str, Any], promise: str) -> None:
    assert promise in meaning(Budget(**members)).promise


@pytest.mark.parametrize("samples", [48, 333, 1000, 12_345])
def test_held_out_samples_are_those_of_the_split(samples: int) -> None:
    held_out = len(split(samples, 0).held_out)

    assert f" {held_out:,} held-out samples" in meaning(Budget(), samples).measured


def test_resolution() -> None:
    assert meaning(Budget(metric="top1"), 1000).measured == (
        "It is measured on 300 held-out samples, 30 % of 1,000: one of them is 0.33 points, so 3 may be lost."
    )


def test_a_given_file_is_measured_on_all_samples() -> None:
    said = meaning(Budget(metric="top1"), 50, all_held_out=True)

    assert "It is measured on 50 held-out samples, all of yours: one of them is 2 points" in said.measured
    assert said.warning is not None
    assert "at least 100 samples" in said.warning


def test_samples_that_are_made_say_nothing_about_accuracy() -> None:
    assert "nothing about accuracy" in meaning(Budget(), synthetic=True).measured


@pytest.mark.parametrize("level", [0.8, 0.95, 0.99])
@pytest.mark.parametrize("samples", [30, 300, 3001])
def test_unchanged_samples_end_where_the_certificate_ends(level: float, samples: int) -> None:
    both = difference_interval(0, 0, samples, level).high
    lost = proportion_interval(0, samples, level).high

    assert unchanged_end(samples, level) == pytest.approx(both, rel=1e-9)
    assert unchanged_end(samples, level, lose_only=True) == pytest.approx(lost, rel=1e-9)


@pytest.mark.parametrize("lose_only", [False, True])
@pytest.mark.parametrize("max_drop", [0.003, 0.01, 0.2])
def test_least_samples_are_the_least(max_drop: float, lose_only: bool) -> None:
    least = least_samples(max_drop, 0.95, lose_only=lose_only)

    assert unchanged_end(least, 0.95, lose_only=lose_only) <= max_drop
    assert unchanged_end(least - 1, 0.95, lose_only=lose_only) > max_drop


def test_too_few_samples_for_a_confidence_are_told() -> None:
    said = meaning(Budget(metric="top1", confidence=0.95), 1000)

    assert "that end lies at 1.26 points with 300 samples" in said.confidence
    assert said.warning == (
        "With these samples no file can keep this budget. Take at least 1,270 samples, allow a drop of 0.0127, or "
        "leave confidence out."
    )
    assert meaning(Budget(metric="top1", confidence=0.95), 1270).warning is None
    assert meaning(Budget(metric="top1", confidence=0.95, max_drop=0.0127), 1000).warning is None


def test_a_budget_of_nothing_with_confidence_cannot_be_kept() -> None:
    said = meaning(Budget(metric="agreement", max_drop=0.0, confidence=0.9), 1000)

    assert said.warning is not None
    assert "allow a drop above 0" in said.warning
    assert meaning(Budget(metric="agreement", max_drop=0.0), 1000).warning is None

"""The rule that says whether a certificate keeps its word, on outputs that are known to be good or bad."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.networks.judge import judge
from benchmarks.networks.losses import (
    accuracy_lost,
    agreement,
    different,
    divergence,
    flips,
    iou_lost,
    r2_lost,
    unexplained,
)

RNG = np.random.default_rng(0)
SCORES = RNG.normal(size=(400, 5))
LABELS = SCORES.argmax(1)


def claim(metric="agreement", outputs=("y",), options=None, max_drop=0.02):
    return {"metric": metric, "outputs": list(outputs), "options": options or {"axis": 1}, "max_drop": max_drop}


def judged(after, *claims, before=SCORES, blind_to=(), fresh=None, name="y"):
    certificate = {"claims": claims, "blind_to": list(blind_to), "samples": 72}
    return judge(certificate, {"": {name: list(before)}}, {"": {name: list(after)}}, fresh or {})


def damaged(share):
    after = SCORES.copy()
    after[: int(share * len(after))] *= -1
    return after


def test_the_float_network_keeps_every_word():
    judgement = judged(SCORES, claim(), claim("explained"), claim("top1"), fresh={"labels": LABELS})
    assert judgement.reasons == ()
    assert set(judgement.losses.values()) == {0.0}


def test_a_loss_within_noise_of_the_budget_is_kept_and_a_large_one_is_not():
    assert judged(damaged(0.03), claim()).reasons == ()
    reason, *_ = judged(damaged(0.2), claim()).reasons
    assert reason.startswith("agreement of y: 0.2 is above")


def test_every_output_has_a_claim_or_is_named():
    assert judged(SCORES, name="z", before=SCORES).reasons == ("z has no claim, and blind_to does not name it",)
    assert judged(SCORES, name="z", blind_to=["output z has no claim"]).reasons == ()


def test_numbers_that_are_none_any_more_are_noticed():
    after = SCORES.copy()
    after[3, 0] = np.nan
    assert any("NaN" in reason for reason in judged(after, claim()).reasons)


def test_an_output_that_kept_its_classes_and_lost_its_values_is_noticed():
    assert any("variance" in reason for reason in judged(SCORES * 3, claim()).reasons)


def test_a_claim_by_an_unknown_metric_is_told():
    assert judged(SCORES, claim("ctc")).unjudged == ("ctc of y",)


def test_groups_of_several_lengths_are_one_set_of_samples():
    groups = {"short": {"y": list(SCORES[:100, :4])}, "long": {"y": list(SCORES[100:])}}
    certificate = {"claims": [claim()], "blind_to": [], "samples": 72}
    assert judge(certificate, groups, groups, {}).losses == {"agreement of y": 0.0}


def values(array):
    return list(np.asarray(array, np.float64))


def test_losses_by_hand():
    x = values([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7], [0.6, 0.4]])
    y = values([[0.1, 0.9], [0.2, 0.8], [0.3, 0.7], [0.6, 0.4]])
    assert agreement(x, y, None, {"axis": 1}) == 0.25
    assert accuracy_lost(x, y, [*values([1, 1, 1]), np.int64(0)], {"axis": 1}) == -0.25
    assert different(x, y, None, {}) == 0.25
    assert divergence(x, y, None, {"axis": 1}) == pytest.approx(0.6 * np.log(4) / 4)
    assert flips(values([0.1, 0.6, 0.7, 0.4]), values([0.2, 0.4, 0.7, np.nan]), None, {}) == 0.5


def test_the_worst_channel_counts_and_constants_are_measured_by_their_square():
    x = np.stack([np.arange(8.0), np.full(8, 10.0)], 1)
    y = x + np.array([0.0, 1.0])
    assert unexplained(values(x), values(y), None, {"axis": 1}) == pytest.approx(0.01)
    y = x + np.array([1.0, 0.0])
    assert unexplained(values(x), values(y), None, {"axis": 1}) == pytest.approx(8 / 42)
    assert unexplained(values(x), values(np.where(x == 3, np.nan, x)), None, {"axis": 1}) == np.inf


def test_rows_that_only_one_network_has_explain_nothing():
    x = values([[1.0], [2.0], [3.0]])
    assert unexplained(x, x, None, {"axis": 1}) == 0
    assert unexplained(x, [x[0], x[1], np.zeros(0)], None, {"axis": 1}) == np.inf
    ragged = [x[0], np.array([2.0, 5.0]), np.zeros(0)]
    assert unexplained(ragged, ragged, None, {}) == unexplained(ragged, ragged, None, {"axis": 1}) == 0


def test_union_and_intersection_of_classes():
    labels = [np.array([0, 1, 1, -1])]
    right, wrong = [np.eye(2)[:, [0, 1, 1, 0]]], [np.eye(2)[:, [0, 0, 1, 0]]]
    assert iou_lost(right, wrong, labels, {"axis": 1}) == 0.5


def test_targets_say_what_is_right():
    wanted = np.arange(8.0)[:, None]
    assert r2_lost(values(wanted + 1), values(wanted), values(wanted), {"axis": 1}) == pytest.approx(-8 / 42)

from __future__ import annotations

import itertools
from dataclasses import replace
from datetime import timedelta

import pytest

from app.lifecycle.states import Claim
from pipeline.stage import Delivery, Stage, needed_stages
from workers.context import ProgressClock, stage_keys
from workers.job import Pipeline


def _stage(name: str, weight: float = 1.0, reads: tuple[str, ...] = ("model",), setting: str = "seed") -> Stage:
    return Stage(name, reads, lambda request: request[setting], lambda context: b"", weight, timedelta(seconds=1))


A, B, C = _stage("a", 1.0), _stage("b", 3.0, ("a", "dataset"), "bits"), _stage("c", 4.0, ("b",), "seed")


class Clock:
    def __init__(self) -> None:
        self.time = 0.0

    def __call__(self) -> float:
        return self.time


def test_progress_is_the_share_of_the_weights_and_eta_follows_the_pace():
    now = Clock()
    clock = ProgressClock((A, B, C), now)
    clock.enter(A)
    assert clock.progress(0.0).fraction == 0.0
    assert clock.progress(0.0).eta_seconds is None
    now.time = 2.0
    clock.leave()
    clock.enter(B)
    now.time = 5.0
    at = clock.progress(0.5)
    assert (at.stage, at.fraction) == ("b", pytest.approx(2.5 / 8))
    assert at.eta_seconds == pytest.approx(5.0 / 2.5 * 5.5)


def test_stages_that_were_found_count_as_done_but_not_for_the_pace():
    now = Clock()
    clock = ProgressClock((A, B, C), now)
    clock.skip(A)
    clock.skip(B)
    clock.enter(C)
    assert clock.progress(0.0).fraction == 0.5
    now.time = 10.0
    assert clock.progress(0.5).eta_seconds == pytest.approx(10.0)


def test_keys_depend_on_what_a_stage_reads_and_obeys_and_on_nothing_else():
    def keys(**changes: object) -> dict[str, str]:
        base = {"model_id": "m", "dataset_id": "d", "request": {"seed": 0, "bits": [2]}}
        made = {**base, **changes}
        return stage_keys((A, B, C), Claim("j", "o", 1, made["model_id"], made["dataset_id"], None, made["request"]))

    def changed(**changes: object) -> set[str]:
        return {name for name in "abc" if keys()[name] != keys(**changes)[name]}

    assert changed() == set()
    assert changed(model_id="other") == {"a", "b", "c"}
    assert changed(dataset_id="other") == {"b", "c"}
    assert changed(dataset_id=None) == {"b", "c"}
    assert changed(request={"seed": 0, "bits": [3]}) == {"b", "c"}
    assert changed(request={"seed": 1, "bits": [2]}) == {"a", "b", "c"}
    assert changed(request={"seed": 0, "bits": [2], "other": 1}) == set()


def test_a_raised_version_is_another_key():
    newer = Stage("a", ("model",), A.settings, A.run, A.weight, A.time_limit, version=2)
    claim = Claim("j", "o", 1, "m", None, None, {"seed": 0})
    assert stage_keys((A,), claim) != stage_keys((newer,), claim)


def test_a_stage_that_a_request_does_not_need_has_no_key_and_its_reader_another():
    searched = replace(B, needed=lambda request: request["seed"] == 0)
    table = (A, searched, C)
    needing, other = (Claim("j", "o", 1, "m", "d", None, {"seed": seed, "bits": [2]}) for seed in (0, 1))
    assert needed_stages(table, needing.request) == table
    assert needed_stages(table, other.request) == (A, C)
    assert set(stage_keys(table, other)) == {"model", "dataset", "a", "c"}
    always = stage_keys((A, B, C), other)
    assert stage_keys(table, other)["a"] == always["a"]
    assert stage_keys(table, other)["c"] != always["c"]
    assert stage_keys(table, needing) == stage_keys((A, B, C), needing)


def test_a_pipeline_is_refused_in_which_a_stage_reads_what_comes_later():
    for order in itertools.permutations((A, B, C)):
        if order == (A, B, C):
            assert Pipeline(order, lambda context: Delivery("met", {}, {})).stages == order
        else:
            with pytest.raises(ValueError, match="stand nowhere before it"):
                Pipeline(order, lambda context: Delivery("met", {}, {}))
    with pytest.raises(ValueError, match="different names"):
        Pipeline((A, A), lambda context: Delivery("met", {}, {}))


def test_a_delivery_has_a_known_outcome():
    with pytest.raises(ValueError, match="deadline, met, not_met, got 'done'"):
        Delivery("done", {}, {})

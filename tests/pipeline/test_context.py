"""Keys, progress and results of stages, on a table of three that do nothing."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from datetime import timedelta

import pytest

from pipeline.context import ProgressClock, stage_keys
from pipeline.stage import UPLOADS, JobResult, Stage, Table, digest_of


def _stage(name: str, weight: float = 1.0, reads: tuple[str, ...] = ("model",)) -> Stage:
    return Stage(name, reads, lambda context, config: b"", weight, timedelta(seconds=1))


A, B, C = _stage("a", 1.0), _stage("b", 3.0, ("a", "dataset")), _stage("c", 4.0, ("b",))


@dataclass(frozen=True)
class Config:
    """The slices of the three stages."""

    a: int | None = 0
    b: tuple[int, ...] | None = (2,)
    c: int | None = 0


def result(_context, _config) -> JobResult:
    return JobResult("met", {}, {})


class Clock:
    def __init__(self) -> None:
        self.time = 0.0

    def __call__(self) -> float:
        return self.time


def test_progress_is_the_share_of_the_weights_and_eta_follows_the_pace():
    now = Clock()
    clock = ProgressClock((A, B, C), now)
    assert clock.progress(A, 0.0).fraction == 0.0
    assert clock.progress(A, 0.0).eta_seconds is None
    now.time = 2.0
    clock.end(A, ran=True)
    now.time = 5.0
    at = clock.progress(B, 0.5)
    assert (at.stage, at.fraction) == ("b", pytest.approx(2.5 / 8))
    assert at.eta_seconds == pytest.approx(5.0 / 2.5 * 5.5)


def test_stages_that_were_found_count_as_done_but_not_for_the_pace():
    now = Clock()
    clock = ProgressClock((A, B, C), now)
    clock.end(A, ran=False)
    clock.end(B, ran=False)
    assert clock.progress(C, 0.0).fraction == 0.5
    now.time = 10.0
    assert clock.progress(C, 0.5).eta_seconds == pytest.approx(10.0)


def test_keys_depend_on_what_a_stage_reads_and_obeys_and_on_nothing_else():
    def keys(config: Config = Config(), model: str = "m", dataset: str = "d") -> dict[str, str]:
        return stage_keys((A, B, C), config, {"model": model, "dataset": dataset})

    def changed(*arguments: object, **changes: str) -> set[str]:
        return {name for name in "abc" if keys()[name] != keys(*arguments, **changes)[name]}

    assert changed() == set()
    assert changed(model="other") == {"a", "b", "c"}
    assert changed(dataset="other") == changed(dataset="") == {"b", "c"}
    assert changed(Config(b=(3,))) == {"b", "c"}
    assert changed(Config(a=1)) == {"a", "b", "c"}
    assert changed(Config(c=1)) == {"c"}


def test_a_raised_version_is_another_key():
    newer = replace(A, version=2)
    assert stage_keys((A,), Config(), {"model": "m"}) != stage_keys((newer,), Config(), {"model": "m"})


def test_a_stage_without_a_slice_has_no_key_and_its_reader_another():
    table, without = Table((A, B, C), Config, result), Config(b=None)
    assert table.needed(Config()) == [A, B, C]
    assert table.needed(without) == [A, C]
    keys, every = (
        stage_keys(table.needed(config), config, {"model": "m", "dataset": "d"}) for config in (without, Config())
    )
    assert set(keys) == {*UPLOADS, "a", "c"}
    assert keys["a"] == every["a"]
    assert keys["c"] != every["c"]


def test_digests_are_those_of_values():
    """Equal values, equal digests; another type of the same members is another value."""

    @dataclass(frozen=True)
    class Other:
        a: int | None = 0
        b: tuple[int, ...] | None = (2,)
        c: int | None = 0

    assert digest_of(Config()) == digest_of(Config(0, (2,)))
    assert digest_of({"x": 1, "y": Config()}) == digest_of({"y": Config(), "x": 1})
    assert len({digest_of(value) for value in (Config(), Other(), Config(1), Config(b=None), None, 0, "0")}) == 7


def test_a_table_is_refused_in_which_a_stage_reads_what_comes_later():
    for order in itertools.permutations((A, B, C)):
        if order == (A, B, C):
            assert Table(order, Config, result).stages == order
        else:
            with pytest.raises(ValueError, match="do not stand before it"):
                Table(order, Config, result)
    with pytest.raises(ValueError, match="different names"):
        Table((A, A), Config, result)


def test_a_result_has_a_known_outcome():
    with pytest.raises(ValueError, match="deadline, met, not_met, got 'done'"):
        JobResult("done", {}, {})

"""The speed of this machine, as a job measures it."""

from __future__ import annotations

import pytest

from pipeline.machine_speed import ROUNDS, _fastest, measure_speed


def test_every_unit_takes_time(job, model, samples) -> None:
    run = job(model, samples, {"weights": {"bits": [4, 8]}})
    run.run()
    speed = measure_speed(run.context, run.context.workspace.inputs(run.config.calibrate.samples))
    assert min(speed.sample_seconds, speed.load_seconds, speed.loop_ratio, speed.mac_seconds) > 0


def test_what_takes_long_is_not_repeated(job, model, samples, monkeypatch) -> None:
    run = job(model, samples, {"weights": {"bits": [4, 8]}})
    run.run()
    inputs = run.context.workspace.inputs(run.config.calibrate.samples)
    for enough, runs in ((0.0, 1), (float("inf"), ROUNDS)):
        batches: list[int] = []
        monkeypatch.setattr("pipeline.machine_speed.LONG_SECONDS", enough)
        monkeypatch.setattr("pipeline.machine_speed.runner_of", lambda *_, seen=batches: _Runner(seen))
        measure_speed(run.context, inputs)
        assert batches == [inputs.batch] * runs


def test_works_take_turns_and_the_fastest_round_of_each_counts() -> None:
    turns, seconds = [], iter([0.05, 0.5, 0.04] + 9 * [0.06])
    now = 0.0

    def work(name: str):
        def run() -> None:
            nonlocal now
            turns.append(name)
            now += next(seconds)

        return run

    short, long = _fastest([work("short"), work("long")], lambda: now)
    assert turns[:4] == ["short", "long", "short", "short"], "what takes long is not timed again"
    assert (short, long) == (pytest.approx(0.04), pytest.approx(0.5))


def test_of_a_heavy_network_few_samples_are_timed(job, model, samples, monkeypatch) -> None:
    run = job(model, samples, {"weights": {"bits": [4, 8]}})
    run.run()
    inputs = run.context.workspace.inputs(run.config.calibrate.samples)
    macs = sum(site.macs for site in inputs.network.sites)
    timed: list[int] = []
    monkeypatch.setattr("pipeline.machine_speed.MOST_MACS", 3 * macs)
    monkeypatch.setattr("pipeline.machine_speed.LONG_SECONDS", 0.0)
    monkeypatch.setattr("pipeline.machine_speed.runner_of", lambda *_: _Runner(timed, counts_samples=True))
    measure_speed(run.context, inputs)
    assert timed == [3]


class _Runner:
    def __init__(self, batches: list[int], *, counts_samples: bool = False) -> None:
        self._batches, self._counts_samples = batches, counts_samples

    def first_output(self, samples, batch: int) -> None:
        self._batches.append(len(next(iter(samples.values()))) if self._counts_samples else batch)

"""Times as values: which alternative is slower, what a round is, when it ends. No test asserts a time itself."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from evaluation import latency
from evaluation.latency import (
    FEWEST_LOADS,
    FEWEST_ROUNDS,
    Latency,
    Timed,
    machine,
    measure_alternatives,
    measure_loading,
)
from network.errors import ModelInvalid

Build = Callable[..., bytes]


@pytest.fixture
def x() -> dict[str, np.ndarray]:
    return {"x": np.ones((4, 3), dtype=np.float32)}


def test_a_latency_has_a_median_a_spread_and_its_runs(linear: Build, x) -> None:
    (found,) = measure_alternatives([Timed(linear(), x)], 1)
    assert found.median_ms > 0
    assert found.spread_ms >= 0
    assert found.runs >= FEWEST_ROUNDS


def test_a_file_that_does_not_load_is_refused(x) -> None:
    with pytest.raises(ModelInvalid, match="does not load"):
        measure_alternatives([Timed(b"no model", x)], 1)


def test_a_file_that_does_not_run_is_refused(linear: Build) -> None:
    with pytest.raises(ModelInvalid, match="does not run"):
        measure_alternatives([Timed(linear(), {"x": np.ones((4, 5), dtype=np.float32)})], 1)


def test_loading_has_a_median_a_spread_and_its_loads(linear: Build) -> None:
    for found in measure_loading([linear(), linear()], 1):
        assert found.median_ms > 0
        assert found.spread_ms >= 0
        assert found.runs >= FEWEST_LOADS
    with pytest.raises(ModelInvalid, match="does not load"):
        measure_loading([linear(), b"no model"], 1)


def test_files_are_loaded_in_turns_and_the_slower_one_is_told(monkeypatch) -> None:
    machine, loaded = Machine(), []
    times = {b"fast": 2.0, b"slow": 30.0}

    def load(model: bytes, _options: object) -> None:
        loaded.append(model)
        machine.run(lambda: times[model])()

    monkeypatch.setattr(latency, "session_with", load)
    monkeypatch.setattr(latency.time, "perf_counter", lambda: machine.now)
    fast, slow = measure_loading([b"fast", b"slow"], 1)
    assert (fast.median_ms, slow.median_ms) == (pytest.approx(2.0), pytest.approx(30.0))
    # neither has all its loads before the other begins
    assert loaded.index(b"slow") < len(loaded) - loaded[::-1].index(b"fast") - 1
    assert (fast.runs, slow.runs) == (loaded.count(b"fast") - 1, loaded.count(b"slow") - 1)


def test_who_interrupts_ends_the_measurement(linear: Build, x) -> None:
    class Interrupted(Exception):
        pass

    def check() -> None:
        raise Interrupted

    with pytest.raises(Interrupted):
        measure_alternatives([Timed(linear(), x)], 1, check=check)


class Machine:
    """A clock, and runs that take a stated time on it, more when the machine is slow."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slow = 1.0

    def run(self, milliseconds: Callable[[], float]) -> Callable[[], None]:
        def run() -> None:
            self.now += self.slow * milliseconds() / 1e3

        return run

    def measure(self, monkeypatch: pytest.MonkeyPatch, alternatives, **arguments) -> list[Latency]:
        runs = iter([self.run(milliseconds) for milliseconds in alternatives])
        monkeypatch.setattr(latency, "timed_session", lambda *_: next(runs))
        monkeypatch.setattr(latency.time, "perf_counter", lambda: self.now)
        return measure_alternatives([Timed(b"", {})] * len(alternatives), 1, **arguments)


def test_the_median_is_found_and_its_spread_covers_the_noise(monkeypatch) -> None:
    """Over 200 measurements of log-normal noise the truth lies within 3 spreads but for a few: normal says 0.3 %,
    and with spreads from at least 7 rounds the fraction is larger; a failure by chance is below 1e-3."""
    generator = np.random.default_rng(0)
    outside = 0
    for _ in range(200):
        found = Machine().measure(monkeypatch, [lambda: 2.0 * generator.lognormal(0, 0.05)])[0]
        outside += abs(found.median_ms - 2.0) > 3 * found.spread_ms
    assert outside < 40


def test_rare_outliers_change_nothing(monkeypatch) -> None:
    generator = np.random.default_rng(1)
    found = Machine().measure(monkeypatch, [lambda: 2.0 if generator.random() < 0.9 else 50.0])[0]
    assert found.median_ms == pytest.approx(2.0)


def test_alternatives_share_what_slows_the_machine(monkeypatch) -> None:
    """A machine that becomes three times as slow on the way slows both alternatives: their order stays."""
    generator = np.random.default_rng(2)
    machine_ = Machine()

    def noisy(milliseconds: float) -> Callable[[], float]:
        def run() -> float:
            machine_.slow = 3.0 if machine_.now > 0.2 else 1.0
            return milliseconds * generator.lognormal(0, 0.1)

        return run

    first, second = machine_.measure(monkeypatch, [noisy(1.0), noisy(1.2)])
    assert second.median_ms / first.median_ms == pytest.approx(1.2, rel=0.1)
    assert abs(first.runs - second.runs) <= latency.RUNS_PER_ROUND


def test_the_time_bounds_what_noise_would_prolong(monkeypatch) -> None:
    generator = np.random.default_rng(3)
    machine_ = Machine()
    machine_.measure(monkeypatch, [lambda: generator.lognormal(0, 2.0)], relative_spread=1e-9, most_seconds=1.0)
    assert machine_.now >= 1.0
    assert machine_.now < 5.0


def test_what_is_read_between_runs_takes_no_time_of_theirs(monkeypatch) -> None:
    machine_, read = Machine(), []

    def slowly(values) -> None:
        read.append(values.nbytes)
        machine_.now += 0.01

    monkeypatch.setattr(latency, "_read", slowly)
    monkeypatch.setattr(latency, "timed_session", lambda *_: machine_.run(lambda: 2.0))
    monkeypatch.setattr(latency.time, "perf_counter", lambda: machine_.now)
    found = measure_alternatives([Timed(b"", {}, 4096), Timed(b"", {})], 1)
    assert [one.median_ms for one in found] == pytest.approx([2.0, 2.0])
    assert [read.count(count) for count in (4096, 0)] == [one.runs for one in found]


@pytest.mark.parametrize("begins", [0, 1])
def test_who_comes_behind_a_large_file_is_not_slower_for_it(monkeypatch, begins: int) -> None:
    """Runs of one file warm its caches: the first three of a turn take twice as long, whoever came before."""
    machine_, last = Machine(), []

    def file(name: str, milliseconds: float) -> Callable[[], None]:
        def run() -> float:
            last.append(name)
            return milliseconds * (1.0 if last[-4:] == [name] * 4 else 2.0)

        return machine_.run(run)

    files = [file("small", 0.5), file("large", 4.0)]
    runs = iter(files[begins:] + files[:begins])
    monkeypatch.setattr(latency, "timed_session", lambda *_: next(runs))
    monkeypatch.setattr(latency.time, "perf_counter", lambda: machine_.now)
    found = measure_alternatives([Timed(b"", {}), Timed(b"", {})], 1)
    assert sorted(one.median_ms for one in found) == pytest.approx([0.5, 4.0])
    assert all(one.runs >= FEWEST_ROUNDS * latency.RUNS_PER_ROUND for one in found)


def test_a_slow_file_runs_as_often_as_it_counts(monkeypatch) -> None:
    machine_, runs = Machine(), []

    def run() -> float:
        runs.append(machine_.now)
        return 300.0

    (found,) = machine_.measure(monkeypatch, [run])
    assert len(runs) - found.runs == latency.WARM_UP_RUNS + 1  # that of the first round


def test_the_machine_is_named_with_its_software() -> None:
    assert "ONNX Runtime " in machine()

"""How long one run of an ONNX file takes in ONNX Runtime on this machine, or loading it, with what noise leaves open.

Times on a machine that others use too are skewed to one side and drift. So alternatives take turns, in short rounds;
of each round the median counts, and over the rounds the median of those, with the standard error that it would have
for normal noise, from the median absolute deviation:

    stderr = sqrt(pi / 2) * 1.4826 * MAD / sqrt(rounds)

Rounds are added until that is small relative to the median for every alternative, or the time is up.

Who takes over finds caches full of what another one read. A network of 7 MB took 1.13, 0.97, 0.90, 0.73 and 0.61 ms in
its first runs behind one of 28 MB, and 0.58 from then on: so the first runs of a round do not count.
"""

from __future__ import annotations

import math
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from evaluation.runner import Arrays, timed_session
from evaluation.session import session_options, session_with

# runs of one round, and how long a round may take before it ends with fewer
RUNS_PER_ROUND = 5
ROUND_SECONDS = 0.05
# runs of a round that come before those that count, how long they may take before there are fewer, and from how many
# milliseconds on a run needs none: filling the caches takes about one
SETTLING_RUNS = 5
SETTLING_SECONDS = 0.02
SETTLED_MS = 200.0
# below this many rounds the deviation itself is not known
FEWEST_ROUNDS = 11
# of files that are loaded, which may take seconds each time
FEWEST_LOADS = 5
WARM_UP_RUNS = 3
# the standard error of the median of normal noise over its median absolute deviation, times the root of the count
_MEDIAN_ERROR = math.sqrt(math.pi / 2) * 1.4826


@dataclass(frozen=True, slots=True)
class Latency:
    """The median of one run, or load, in milliseconds, its standard error, and how many runs it is from."""

    median_ms: float
    spread_ms: float
    runs: int


@dataclass(frozen=True, eq=False)
class Timed:
    """A file to time, and what it is fed: one array by each graph input, all the samples of one run.

    `bytes_between` are read before each of its runs, and take no time of it: they leave the caches as a layer finds
    them inside of a network that reads as much in between.
    """

    model: bytes
    inputs: Arrays
    bytes_between: int = 0


def measure_alternatives(
    timed: Sequence[Timed],
    threads: int,
    *,
    relative_spread: float = 0.01,
    most_seconds: float = 0.5,
    check: Callable[[], None] = lambda: None,
) -> list[Latency]:
    """The latency of every file; they take turns, so that what slows the machine for a while slows all of them.

    Args:
        timed: files that can be loaded together.
        threads: within an operator, at least 1.
        relative_spread: rounds are added until every spread is at most this part of its median, or
        most_seconds: for each file are used up; `FEWEST_ROUNDS` are always run.
        check: called between rounds; what it raises ends the measurement.

    Raises:
        ModelInvalid, ModelTooLarge: ONNX Runtime does not load or run a file.
    """
    runs = [timed_session(file.model, file.inputs, threads) for file in timed]
    between = [file.bytes_between for file in timed]
    turns = [_Turn(run, count, SETTLING_RUNS if count == 0 else 0) for run, count in zip(runs, between, strict=True)]
    return _in_turns(turns, WARM_UP_RUNS, FEWEST_ROUNDS, relative_spread, most_seconds, check)


def measure_loading(
    models: Sequence[bytes], threads: int, *, most_seconds: float = 2.0, check: Callable[[], None] = lambda: None
) -> list[Latency]:
    """How long every file takes to load, with the options that a user would take; they take turns.

    Args:
        models: files.
        threads: within an operator, at least 1.
        most_seconds: for each file, unless `FEWEST_LOADS` of it take longer.
        check: called between rounds; what it raises ends the measurement.

    Raises:
        ModelInvalid, ModelTooLarge: ONNX Runtime does not load a file.
    """
    loads = [_Turn(partial(session_with, model, session_options(threads))) for model in models]
    return _in_turns(loads, 1, FEWEST_LOADS, 0.01, most_seconds, check)


@dataclass(frozen=True, slots=True, eq=False)
class _Turn:
    """What takes turns: `bytes_between` are read before each run, `settling` runs begin a round and do not count."""

    run: Callable[[], object]
    bytes_between: int = 0
    settling: int = 0


def _in_turns(
    turns: Sequence[_Turn],
    warm_up_runs: int,
    fewest_rounds: int,
    relative_spread: float,
    most_seconds: float,
    check: Callable[[], None],
) -> list[Latency]:
    for turn in turns:
        for _ in range(warm_up_runs):
            turn.run()
        check()
    largest = np.ones(max(turn.bytes_between for turn in turns) // 8, dtype=np.int64)
    between = [largest[: turn.bytes_between // 8] for turn in turns]
    rounds: list[list[float]] = [[] for _ in turns]
    counts = [0] * len(turns)
    until = time.perf_counter() + most_seconds * len(turns)
    while True:
        # each in turn begins: the first of a round finds the caches as the checks in between left them
        begin = min(map(len, rounds)) % len(turns)
        for index in [*range(begin, len(turns)), *range(begin)]:
            if not rounds[index] or rounds[index][-1] < SETTLED_MS:
                _settle(turns[index])
            times = _round(turns[index].run, between[index])
            rounds[index].append(statistics.median(times))
            counts[index] += len(times)
        check()
        latencies = [_latency(medians, count) for medians, count in zip(rounds, counts, strict=True)]
        if len(rounds[0]) >= fewest_rounds and (
            time.perf_counter() >= until
            or all(latency.spread_ms <= relative_spread * latency.median_ms for latency in latencies)
        ):
            return latencies


def _settle(turn: _Turn) -> None:
    """The runs that do not count."""
    ends = time.perf_counter() + SETTLING_SECONDS
    for _ in range(turn.settling):
        turn.run()
        if time.perf_counter() >= ends:
            return


def _round(run: Callable[[], object], between: NDArray[np.int64]) -> list[float]:
    """Milliseconds of each of a few runs, with all of `between` read before each."""
    times: list[float] = []
    ends = time.perf_counter() + ROUND_SECONDS
    while len(times) < RUNS_PER_ROUND:
        _read(between)
        started = time.perf_counter()
        run()
        finished = time.perf_counter()
        times.append(1e3 * (finished - started))
        if finished >= ends:
            break
    return times


def _read(values: NDArray[np.int64]) -> None:
    values.max(initial=0)


def _latency(medians: Sequence[float], runs: int) -> Latency:
    middle = statistics.median(medians)
    deviation = statistics.median(abs(value - middle) for value in medians)
    return Latency(middle, _MEDIAN_ERROR * deviation / math.sqrt(len(medians)), runs)


@cache
def machine() -> str:
    """What of this machine and its software a latency belongs to: the processor's name and ONNX Runtime's version."""
    return f"{_processor()}; ONNX Runtime {onnxruntime.__version__}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not Linux
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()

"""How long one run of an ONNX file takes in ONNX Runtime on this machine, or loading it, with what noise leaves open.

Times on a machine that others use too are skewed to one side and drift. So alternatives take turns, in short rounds;
of each round the median counts, and over the rounds the median of those, with the standard error that it would have
for normal noise, from the median absolute deviation:

    stderr = sqrt(pi / 2) * 1.4826 * MAD / sqrt(rounds)

Rounds are added until that is small relative to the median for every alternative, or the time is up.
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
    return _in_turns(runs, between, WARM_UP_RUNS, FEWEST_ROUNDS, relative_spread, most_seconds, check)


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
    loads = [partial(session_with, model, session_options(threads)) for model in models]
    return _in_turns(loads, [0] * len(loads), 1, FEWEST_LOADS, 0.01, most_seconds, check)


def _in_turns(
    runs: Sequence[Callable[[], object]],
    bytes_between: Sequence[int],
    warm_up_runs: int,
    fewest_rounds: int,
    relative_spread: float,
    most_seconds: float,
    check: Callable[[], None],
) -> list[Latency]:
    for run in runs:
        for _ in range(warm_up_runs):
            run()
        check()
    largest = np.ones(max(bytes_between) // 8, dtype=np.int64)
    between = [largest[: count // 8] for count in bytes_between]
    rounds: list[list[float]] = [[] for _ in runs]
    counts = [0] * len(runs)
    until = time.perf_counter() + most_seconds * len(runs)
    while True:
        # each in turn begins: the first of a round finds the caches as the checks in between left them
        begin = min(map(len, rounds)) % len(runs)
        for index in [*range(begin, len(runs)), *range(begin)]:
            times = _round(runs[index], between[index])
            rounds[index].append(statistics.median(times))
            counts[index] += len(times)
        check()
        latencies = [_latency(medians, count) for medians, count in zip(rounds, counts, strict=True)]
        if len(rounds[0]) >= fewest_rounds and (
            time.perf_counter() >= until
            or all(latency.spread_ms <= relative_spread * latency.median_ms for latency in latencies)
        ):
            return latencies


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

"""How long an uploaded network may run: a small file that never ends is told so by the run that shows it.

Processor time is what counts, so that other work on the machine ends no run.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from network.batching import Arrays
from network.errors import ModelNotTaken, NetworkError, TooMuchWork
from network.runtime import runtime_errors, session_of

_LOOK_SECONDS = 0.1
"""Between two looks at the processor time of a run."""


@dataclass(frozen=True, slots=True)
class WorkLimits:
    """What a network may take: `sample_seconds` on one sample, `samples_seconds` on all that were sent, once.

    Both are processor time of one thread. `sample_macs` are multiply-accumulates of one sample.
    """

    sample_seconds: float = math.inf
    samples_seconds: float = math.inf
    sample_macs: float = math.inf

    def __post_init__(self) -> None:
        for name in ("sample_seconds", "samples_seconds", "sample_macs"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")


UNLIMITED = WorkLimits()


class TrialRun:
    """An uploaded file that is run on a few samples; its failures are ours.

    Raises:
        ModelNotRunnable: ONNX Runtime does not load it.
    """

    def __init__(self, file: bytes | Path, threads: int, limits: WorkLimits) -> None:
        with runtime_errors("load"):
            self._session = session_of(file, threads)
        self._threads = threads
        self._limits = limits
        self._least_seconds = math.inf
        self.outputs = [value.name for value in self._session.get_outputs()]

    def __call__(self, call: Arrays, samples: int) -> list[NDArray[np.generic]]:
        """Its outputs in a call that holds so many samples.

        Raises:
            TooMuchWork: a sample takes longer than the limit.
            ModelInvalid: it does not run, or an output is not a tensor.
        """
        began = time.process_time()
        results = self._within(call, self._limits.sample_seconds * samples)
        self._least_seconds = min(self._least_seconds, (time.process_time() - began) / samples)
        for name, result in zip(self.outputs, results, strict=True):
            if not isinstance(result, np.ndarray):
                raise ModelNotTaken(f"output {name!r} is a {type(result).__name__}; expected a tensor")
        return results

    def check_all(self, samples: int) -> None:
        """Refuse so many samples, judged by the fastest call so far.

        Raises:
            TooMuchWork: they take longer than the limit.
        """
        seconds, limit = self._least_seconds * samples, self._limits.samples_seconds
        if seconds > limit:
            raise TooMuchWork(
                f"running the network once on {samples:,} samples takes about {seconds:,.0f} s of processor time "
                f"({self._least_seconds:.3g} s for each); files of this size may take {limit:,.0f} s: the limit grows "
                "with the bytes of model and samples. Export the network with fewer rounds of its loops, or send fewer "
                "samples"
            )

    def _within(self, call: Arrays, seconds: float) -> list[Any]:
        options = onnxruntime.RunOptions()
        options.log_severity_level = 4  # what matters is raised
        with _ended_after(seconds * self._threads, options) as ended:
            try:
                with runtime_errors("run"):
                    return list(self._session.run(None, dict(call), options))
            except NetworkError as error:
                if ended.is_set():
                    raise TooMuchWork(
                        f"running one sample takes more than {self._limits.sample_seconds:.4g} s of processor time, "
                        "which is what a network of this size may take: a Loop of it does not end, or does very many "
                        "rounds. Export the network with a bound on its loops"
                    ) from error
                raise


@contextmanager
def _ended_after(seconds: float, options: onnxruntime.RunOptions) -> Iterator[threading.Event]:
    """Ends the run with these options once the process has used so many more seconds of its processors; the event says
    that it did. A run ends before its next node, of whatever body."""
    done, ended = threading.Event(), threading.Event()
    end = time.process_time() + seconds

    def watch() -> None:
        while not done.wait(_LOOK_SECONDS):
            if time.process_time() > end:
                ended.set()
                options.terminate = True
                return

    watching = threading.Thread(target=watch, name="work-limit", daemon=True)
    watching.start()
    try:
        yield ended
    finally:
        done.set()
        watching.join()

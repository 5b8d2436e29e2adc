"""How fast this machine is: a batch of the float network, and two yardsticks of milliseconds.

Where one thread computes, its processor time is taken, so that work beside the job does not count: the estimate is that
of a machine with nothing else to do.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from evaluation.runner import OnnxRunner
from network.normalise import dump_parts
from pipeline.context import Context
from pipeline.reference import runner_of
from pipeline.workspace import Inputs

REFERENCE_LOOP_SECONDS = 0.85e-3
"""Of `_column_loop` on the machine where the seconds of `pipeline.cost_model` were measured."""
ROUNDS = 8
"""At most: the fastest is the one that nothing else on the machine has slowed."""
LONG_SECONDS = 0.2
"""Of the rounds of one thing in all: no further one is begun after that."""
SHORTEST_SECONDS = 1e-7
"""Of anything: a clock may stand still meanwhile."""
MOST_MACS = 3e10
"""Of the samples that are timed."""
_SIDE = 384  # of the square matrices of the product


@dataclass(frozen=True, slots=True)
class MachineSpeed:
    """What the units of `pipeline.cost_model.Work` take here.

    Args:
        sample_seconds: the float network on one sample, of a batch.
        load_seconds: a session of the float network made.
        loop_ratio: of loops over small arrays, to the reference machine.
        mac_seconds: a multiply-accumulate of a float32 matrix product.
    """

    sample_seconds: float
    load_seconds: float
    loop_ratio: float
    mac_seconds: float


def measure_speed(context: Context, inputs: Inputs) -> MachineSpeed:
    """The speed of this machine for this network, in some tenths of a second, or one load and one batch."""
    clock = time.process_time if context.machine.threads == 1 else time.perf_counter
    with tempfile.TemporaryDirectory(prefix="bitbudget-speed-") as folder:
        path = Path(folder, "network.onnx")
        with path.open("wb") as file:  # of bytes the session would keep a copy
            file.writelines(dump_parts(inputs.network))
        loaded: list[OnnxRunner] = []

        def load() -> None:
            loaded.clear()  # one at a time is in memory
            loaded.append(runner_of(context, inputs, path))

        (load_seconds,) = _fastest([load], clock)
    (runner,) = loaded
    context.check()
    batch = inputs.take(inputs.splits.calibration[: _samples(context, inputs)])
    a, b = np.random.default_rng(0).standard_normal((2, _SIDE, _SIDE), dtype=np.float32)
    batch_seconds, loop_seconds, product_seconds = _fastest(
        [lambda: runner.first_output(batch, inputs.batch), _column_loop, lambda: a @ b], clock
    )
    context.check()
    return MachineSpeed(
        sample_seconds=batch_seconds / len(next(iter(batch.values()))),
        load_seconds=load_seconds,
        loop_ratio=loop_seconds / REFERENCE_LOOP_SECONDS,
        mac_seconds=product_seconds / _SIDE**3,
    )


def _samples(context: Context, inputs: Inputs) -> int:
    """How many are timed: a batch, or so few that they take about a second; calibration has them in every job."""
    macs = sum(site.macs for site in inputs.network.sites)
    fitting = max(int(MOST_MACS / max(macs, 1)), context.machine.threads)
    return inputs.static_batch or min(inputs.batch, fitting)


def _column_loop(columns: int = 128, lanes: int = 256) -> None:
    """The calls of numpy that GPTQ makes of each column of a small weight."""
    weights = np.linspace(-4, 4, columns * lanes, dtype=np.float32).reshape(columns, lanes)
    errors = np.zeros_like(weights)
    for column in range(1, columns):
        known = min(column, 32)
        value = weights[column] - 1e-3 * (weights[:known, 0] @ errors[column - known : column])
        rounded = np.clip(np.rint(value), -4, 3)
        np.subtract(rounded, value, out=errors[column])


def _fastest(works: Sequence[Callable[[], object]], clock: Callable[[], float]) -> list[float]:
    """The least seconds of each in `ROUNDS`, or in so many as take `LONG_SECONDS`. They take turns: what else the
    machine does comes and goes within tenths of a second."""
    taken = [[_timed(work, clock)] for work in works]
    for _ in range(1, ROUNDS):
        for work, own in zip(works, taken, strict=True):
            if sum(own) < LONG_SECONDS:
                own.append(_timed(work, clock))
    return [min(own) for own in taken]


def _timed(work: Callable[[], object], clock: Callable[[], float]) -> float:
    began = clock()
    work()
    return max(clock() - began, SHORTEST_SECONDS)

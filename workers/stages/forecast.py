"""What the stage `sensitivity` will take, before it begins: seconds on this machine, and its peak of memory.

Time is counted in float passes (`workers.stages.methods`) and one batch is run to see how long a pass takes here. The
estimate leaves out what depends on luck (how many probes the traces need), so that it is good to a factor of two.
"""

from __future__ import annotations

import math
import resource
import time
from collections.abc import Sequence
from dataclasses import dataclass

from evaluation.runner import OnnxRunner
from network.memory import estimate_memory
from network.normalise import dump
from workers.stages.inputs import ACTIVATIONS_PER_PEAK, Inputs
from workers.stages.methods import float_passes

# Parts of a network are made into sessions of ONNX Runtime, two for each site.
SKETCHED_OUTPUTS = 256
FLOAT32_BYTES = 4


@dataclass(frozen=True, slots=True)
class Forecast:
    """`seconds` for everything, of which `measured_share` (0 to 1) goes to the passes of the cross-layer matrix."""

    seconds: float
    measured_share: float
    memory_bytes: int


def forecast(inputs: Inputs, candidates: int, methods: Sequence[str], threads: int) -> Forecast:
    """The expected cost of the cross-layer matrix and of `methods`.

    Args:
        inputs: network and data of the job.
        candidates: of all sites together.
        methods: those of `sensitivity.estimators` that will run.
        threads: of ONNX Runtime.
    """
    network = inputs.network
    each = math.ceil(candidates / len(network.sites))
    measured = float_passes("measured", network, each)
    others = sum(float_passes(name, network, each) for name in methods)
    return Forecast(
        seconds=_pass_seconds(inputs, threads) * (measured + others),
        measured_share=measured / (measured + others),
        memory_bytes=_memory_bytes(inputs, candidates),
    )


def _pass_seconds(inputs: Inputs, threads: int) -> float:
    """Of the float network over the samples of the analysis, from one batch that is run twice."""
    runner = OnnxRunner(dump(inputs.network), threads)
    samples = inputs.sensitivity_samples
    batch = inputs.take(samples[: inputs.batch])
    for _ in range(2):  # the first run also allocates
        started = time.perf_counter()
        runner.first_output(batch, inputs.batch)
        seconds = time.perf_counter() - started
    return seconds * len(samples) / len(next(iter(batch.values())))


def _memory_bytes(inputs: Inputs, candidates: int) -> int:
    """The process as it is, and the larger of what the passes and what the gradients hold at their peak."""
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    network = inputs.network
    of_one = estimate_memory(network.proto, inputs.static_batch or 1)
    of_sample = of_one.activation_bytes // (inputs.static_batch or 1)
    width = math.prod(n or 1 for n in network.outputs[0].shape[1:])
    samples = len(inputs.sensitivity_samples)
    rows = candidates * samples * min(width, SKETCHED_OUTPUTS) * FLOAT32_BYTES
    # two cuts of a group are alive while it moves on, and float64 copies of the rows in parts while G is made
    passes = 2 * min(inputs.group, samples) * of_sample + inputs.batch * of_sample + 2 * rows + 3 * 8 * candidates**2
    gradients = 3 * of_one.weight_bytes + inputs.backward_batch * of_sample * ACTIVATIONS_PER_PEAK
    return int(used + of_one.weight_bytes + max(passes, gradients))

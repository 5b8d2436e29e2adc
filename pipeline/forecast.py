"""What the stages `cross_layer` and `sensitivity` will take, before each begins: seconds, and peak of memory.

Time is counted in float passes (`pipeline.methods`) and one batch is run to see how long a pass takes here. The
estimate leaves out what depends on luck (how many probes the traces need), so that it is good to a factor of two. That
of the whole job (`pipeline.job_forecast`) is closer, and comes first.
"""

from __future__ import annotations

import math
import resource
import time
from collections.abc import Collection
from pathlib import Path

from evaluation.runner import OnnxRunner
from network.memory import estimate_memory
from pipeline.events import Estimate
from pipeline.workspace import ACTIVATIONS_PER_PEAK, Inputs
from sensitivity.loss import Loss

SKETCHED_OUTPUTS = 256
FLOAT32_BYTES = 4
FLOAT64_BYTES = 8


def forecast_passes(inputs: Inputs, loss: Loss, passes: float, candidates: int, threads: int) -> Estimate:
    """Of `cross_layer`: `passes` float passes in ONNX Runtime that keep the loss's outputs of all `candidates`."""
    held = passes_bytes(inputs, loss.outputs, candidates)
    weights = estimate_memory(inputs.network.proto, 1).weight_bytes
    return Estimate("cross_layer", _pass_seconds(inputs, threads) * passes, used_bytes() + weights + held)


def passes_bytes(inputs: Inputs, outputs: Collection[str], candidates: int) -> int:
    """What `cross_layer` keeps for so many measured candidates, where the loss looks at these outputs."""
    samples, of_sample = len(inputs.sensitivity_samples), inputs.sample_bytes
    width = sum(math.prod(n or 1 for n in x.shape[1:]) for x in inputs.network.outputs if x.name in outputs)
    rows = candidates * samples * min(width, SKETCHED_OUTPUTS) * FLOAT32_BYTES
    matrices = 3 * FLOAT64_BYTES * candidates**2
    # two cuts of a group are alive while it moves on, and the rows a second time, in parts, while the matrix is made
    return (2 * min(inputs.group, samples) + inputs.batch) * of_sample + 2 * rows + matrices


def forecast_gradients(inputs: Inputs, passes: float, threads: int) -> Estimate:
    """Of `sensitivity`: as much work as `passes` float passes, by backward passes in torch."""
    weights = estimate_memory(inputs.network.proto, 1).weight_bytes  # a copy, their gradients, and one candidate
    held = 3 * weights + inputs.backward_batch * inputs.sample_bytes * ACTIVATIONS_PER_PEAK
    return Estimate("sensitivity", _pass_seconds(inputs, threads) * passes, used_bytes() + held)


def _pass_seconds(inputs: Inputs, threads: int) -> float:
    """Of the float network over the samples of the analysis, from one batch that is run twice."""
    network = inputs.network
    runner = OnnxRunner(network.proto, threads, batching=network.batching, longest=inputs.longest_outputs)
    samples = inputs.sensitivity_samples
    batch = inputs.take(samples[: inputs.batch])
    for _ in range(2):  # the first run also allocates
        started = time.perf_counter()
        runner.first_output(batch, inputs.batch)
        seconds = time.perf_counter() - started
    return seconds * len(samples) / len(next(iter(batch.values())))


def resident_bytes() -> int:
    """What this process has in memory now, its peak where the system does not say."""
    pages = Path("/proc/self/statm")
    return int(pages.read_text().split()[1]) * resource.getpagesize() if pages.exists() else used_bytes()


def used_bytes() -> int:
    """The peak of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

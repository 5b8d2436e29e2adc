"""The uploaded file as the reference: its outputs on samples, run in ONNX Runtime as it was sent."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from evaluation.metrics.measurement import Output
from evaluation.runner import OnnxRunner
from network.batching import Batching
from network.runtime import SideBySide
from pipeline.context import Context
from pipeline.process import release
from pipeline.workspace import Inputs

# of the outputs of all samples: those of both networks, and two more arrays of their size while a metric is computed
COPIES = 4
FEWEST = 16


def runner_of(
    context: Context, inputs: Inputs, model: bytes | Path | ModelProto, batching: Batching | None = None
) -> OnnxRunner:
    """A file on all cores of this machine, in the batches that the samples are run in.

    Args:
        batching: of a file that makes other calls of these samples than the network; None: the network's.
    """
    batching = batching or inputs.network.batching
    cores = SideBySide.of(inputs.batch, context.machine.threads, batching.size)
    return OnnxRunner(model, cores.threads, cores.runs, batching=batching, longest=inputs.longest_outputs)


def reference_outputs(context: Context, inputs: Inputs, samples: NDArray[np.int64]) -> dict[str, Output]:
    """The outputs of the uploaded file on these samples, `[samples, ...]` by name."""
    outputs = outputs_of(context, inputs, runner_of(context, inputs, context.model_path), samples)
    release()  # the session, which takes two files
    return outputs


def outputs_of(
    context: Context,
    inputs: Inputs,
    runner: OnnxRunner,
    samples: NDArray[np.int64],
    names: Sequence[str] | None = None,
) -> dict[str, Output]:
    """The outputs of a file on these samples, `[samples, ...]` by name; all of them, or those in `names`."""
    context.check()
    outputs = runner.outputs(inputs.dataset.take(samples).inputs, inputs.batch, names)
    context.check()
    return outputs


def samples_that_fit(context: Context, inputs: Inputs, samples: NDArray[np.int64]) -> int:
    """How many of these samples may have all their outputs in memory at once, in both networks; at least `FEWEST`."""
    first = reference_outputs(context, inputs, samples[: max(1, inputs.static_batch or 1)])
    of_sample = sum(array.nbytes // len(array) for array in first.values())
    return min(len(samples), max(FEWEST, inputs.config.kept_bytes // (COPIES * max(of_sample, 1))))

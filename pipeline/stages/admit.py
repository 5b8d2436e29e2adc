"""Admit: is this a model that may be worked on, and does the data fit it?

The only stage that sees the upload as it came. It runs, like all of them, in a worker child with limits on memory and
time; nothing of it runs in the API process.
"""

from __future__ import annotations

from network.admission import admit, input_specs
from network.errors import ModelTooLarge
from network.memory import estimate_memory
from pipeline.config import AdmitConfig
from pipeline.context import Context
from pipeline.results import pack
from pipeline.workspace import admission_limits


def run(context: Context, config: AdmitConfig) -> bytes:
    """The shape of one sample of every graph input, and how many samples there are."""
    limits = admission_limits(context.machine)
    model = admit(context.model_path.read_bytes(), limits)
    context.check()
    # what a metric graph reads is known once the outputs are: then the stage `claims` judges further arrays
    extra = None if config.own_metric else ()
    dataset = context.workspace.dataset(input_specs(model), 0, extra)  # of synthetic samples only the shapes count
    shapes = {name: list(array.shape[1:]) for name, array in dataset.inputs.items()}
    estimate = estimate_memory(model, 1, shapes)  # now with the axes that only the data fixes
    if estimate.total_bytes > limits.max_memory_bytes:
        raise ModelTooLarge(
            f"one sample needs at least {estimate.total_bytes:,} bytes (the largest value is {estimate.largest!r} with "
            f"{estimate.largest_bytes:,}), a worker may use {limits.max_memory_bytes:,}; send samples of a smaller "
            "shape, or raise BITBUDGET_WORKER_MEMORY_BYTES"
        )
    return pack({"inputs": shapes, "samples": dataset.samples})

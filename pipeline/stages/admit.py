"""Admit: is this a model that may be worked on, and does the data fit it?

The only stage that sees the upload as it came. It runs, like all of them, in a worker child with limits on memory and
time; nothing of it runs in the API process.
"""

from __future__ import annotations

from evaluation.dataset import DatasetLimits, read_dataset, synthesize
from network.admission import AdmissionLimits, admit, input_specs
from network.errors import ModelTooLarge
from network.memory import estimate_memory
from pipeline.results import pack
from pipeline.stage import StageContext

SYNTHETIC_SAMPLES = 512
GIB = 1 << 30


def run(context: StageContext) -> bytes:
    """The shape of one sample of every graph input, and what the dataset holds."""
    limits = admission_limits(context)
    model = admit(context.model_path.read_bytes(), limits)
    context.check()
    specs = input_specs(model)
    if context.dataset_path is None:
        dataset = synthesize(specs, SYNTHETIC_SAMPLES, int(context.request["seed"]))
    else:
        dataset = read_dataset(context.dataset_path, specs, dataset_limits(context))
    shapes = {name: list(array.shape[1:]) for name, array in dataset.inputs.items()}
    estimate = estimate_memory(model, 1, shapes)  # now with the axes that only the data fixes
    if estimate.total_bytes > limits.max_memory_bytes:
        raise ModelTooLarge(
            f"one sample needs at least {estimate.total_bytes:,} bytes (the largest value is {estimate.largest!r} with "
            f"{estimate.largest_bytes:,}), a worker may use {limits.max_memory_bytes:,}; send samples of a smaller "
            "shape, or raise BITBUDGET_WORKER_MEMORY_BYTES"
        )
    return pack({"inputs": shapes, "samples": dataset.samples})


def admission_limits(context: StageContext) -> AdmissionLimits:
    """One sample of the network may take all memory of the worker."""
    return AdmissionLimits(max_memory_bytes=context.memory_limit_bytes or 8 * GIB)


def dataset_limits(context: StageContext) -> DatasetLimits:
    """A dataset may take half of the memory that the worker may use."""
    return DatasetLimits(max_total_bytes=(context.memory_limit_bytes or 8 * GIB) // 2)

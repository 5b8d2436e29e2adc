"""Admit: is this a model that may be worked on, and does the data fit it?

The only stage that sees the upload as it came. It runs, like all of them, in a worker child with limits on memory and
time; nothing of it runs in the API process.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from onnx import ModelProto

from network.admission import AdmissionLimits, admit, input_specs, onnx_errors
from network.errors import ModelTooLarge
from network.memory import estimate_memory
from pipeline.config import Nothing
from pipeline.context import Context
from pipeline.results import pack
from pipeline.stage import Machine
from pipeline.workspace import GIB


def run(context: Context, _config: Nothing) -> bytes:
    """The shape of one sample of every graph input, and how many samples there are."""
    limits = admission_limits(context.machine)
    model = admit(context.model_path.read_bytes(), limits)
    context.check()
    dataset = context.workspace.dataset(input_specs(model), seed=0)  # of synthetic samples only the shapes count
    shapes = {name: list(array.shape[1:]) for name, array in dataset.inputs.items()}
    check_sample_memory(model, limits, shapes)
    return pack({"inputs": shapes, "samples": dataset.samples})


def admission_limits(machine: Machine) -> AdmissionLimits:
    """One sample of the network may take all memory of the worker."""
    return AdmissionLimits(max_memory_bytes=machine.memory_limit_bytes or 8 * GIB)


def check_sample_memory(model: ModelProto, limits: AdmissionLimits, shapes: Mapping[str, Sequence[int]]) -> None:
    """Refuse a network of which one sample is too much, now with the axes that only the data fixes.

    Raises:
        ModelTooLarge: it is.
        ModelInvalid: the network does not take samples of these shapes.
    """
    with onnx_errors("shape inference"):
        estimate = estimate_memory(model, 1, shapes)
    if estimate.total_bytes > limits.max_memory_bytes:
        raise ModelTooLarge(
            f"one sample needs at least {estimate.total_bytes:,} bytes (the largest value is {estimate.largest!r} with "
            f"{estimate.largest_bytes:,}), a worker may use {limits.max_memory_bytes:,}; send samples of a smaller "
            "shape, or raise BITBUDGET_WORKER_MEMORY_BYTES"
        )

"""Admit: is this a model that may be worked on, and does the data fit it?

The only stage that sees the upload as it came. It runs, like all of them, in a worker child with limits on memory and
time; nothing of it runs in the API process.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from onnx import ModelProto

from network.admission import AdmissionLimits, admit, input_specs, onnx_errors
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
    # of synthetic samples only the shapes count
    dataset = context.workspace.dataset(input_specs(model), 0, further_arrays(config.own_metric))
    shapes = {name: list(array.shape[1:]) for name, array in dataset.inputs.items()}
    check_sample_memory(model, limits, shapes)
    return pack({"inputs": shapes, "samples": dataset.samples})


def further_arrays(own_metric: bool) -> Collection[str] | None:
    """The arrays that a dataset may have for a metric of the user's own; None for any: what its graph reads is known
    once the outputs are, and then the stage `claims` refuses the others."""
    return None if own_metric else ()


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

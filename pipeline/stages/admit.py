"""Admit: is this a model that may be worked on, and does the data fit it?

The only stage that sees the upload as it came. It runs, like all of them, in a worker child with limits on memory and
time; nothing of it runs in the API process.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from onnx import ModelProto

from network.admission import AdmissionLimits, admit, onnx_errors
from network.batch_axes import find_batching, likeliest_axes
from network.batching import Arrays, shapes_of_sample
from network.errors import ModelTooLarge, TooMuchWork
from network.memory import estimate_memory
from network.tensor_spec import input_specs
from network.work import WorkLimits
from pipeline.config import AdmitConfig
from pipeline.context import Context
from pipeline.results import pack
from pipeline.workspace import admission_limits


def run(context: Context, config: AdmitConfig) -> bytes:
    """The shape of one sample of every graph input, how many samples there are, and how they become calls."""
    limits = admission_limits(context.machine)
    model = admit(context.model_path.read_bytes(), limits)
    context.check()
    # of synthetic samples only the shapes count
    dataset = context.workspace.dataset(input_specs(model), 0, further_arrays(config.own_metric))
    check_sample(model, limits, context.work_limits, dataset.inputs, config.batch_axes)
    axes, threads = dict(config.batch_axes), context.machine.threads
    batching = find_batching(context.model_path, model, dataset.inputs, axes, threads, context.work_limits)
    shapes = {name: list(shape) for name, shape in shapes_of_sample(dataset.inputs).items()}
    return pack({"inputs": shapes, "samples": dataset.samples, "batching": batching.document()})


def further_arrays(own_metric: bool) -> Collection[str] | None:
    """The arrays that a dataset may have for a metric of the user's own; None for any: what its graph reads is known
    once the outputs are, and then the stage `claims` refuses the others."""
    return None if own_metric else ()


def check_sample(
    model: ModelProto,
    limits: AdmissionLimits,
    work: WorkLimits,
    samples: Arrays,
    batch_axes: Sequence[tuple[str, int | None]],
) -> None:
    """Refuse a network of which one sample is too much, now with the axes that only the data fixes.

    Raises:
        ModelTooLarge: it takes too much memory.
        TooMuchWork: it multiplies too often.
        BatchAxisUnknown: no axis is left for the samples.
        ModelInvalid: the network does not take samples of these shapes.
    """
    batching = likeliest_axes(model, samples, dict(batch_axes))
    shapes = shapes_of_sample(samples)
    with onnx_errors("shape inference"):
        estimate = estimate_memory(model, 1, shapes, batching)
    if estimate.total_bytes > limits.max_memory_bytes:
        raise ModelTooLarge(
            f"one sample needs at least {estimate.total_bytes:,} bytes (the largest value is {estimate.largest!r} with "
            f"{estimate.largest_bytes:,}), a worker may use {limits.max_memory_bytes:,}; send samples of a smaller "
            "shape, or raise BITBUDGET_WORKER_MEMORY_BYTES"
        )
    macs = estimate.macs // (batching.size or 1)
    if macs > work.sample_macs:
        raise TooMuchWork(
            f"one sample takes at least {macs:.3g} multiplications, and of uploads of this size {work.sample_macs:.3g} "
            "are taken: the limit grows with the bytes of model and samples; send samples of a smaller shape"
        )

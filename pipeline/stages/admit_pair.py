"""Admit pair: may this quantized file be run, and can it be fed the samples of its float network?"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from network.batch_axes import batching_of_another
from network.batching import shapes_of_sample
from network.errors import ModelInvalid, NetworkError
from network.uploaded import admit_to_run, check_takes
from pipeline.certificate_config import AdmitPairConfig
from pipeline.context import Context
from pipeline.results import pack
from pipeline.stages.admit import check_sample
from pipeline.workspace import admission_limits
from quantization.errors import FileNotInspected


def run(context: Context, config: AdmitPairConfig) -> bytes:
    """How the samples become calls of the quantized file.

    Raises:
        NetworkError: the quantized file may not be run; the text begins with "the quantized file".
        FileNotInspected: ONNX Runtime does not load it, or does not run it on a sample.
        InterfaceDiffers: it has other inputs than the float network.
    """
    limits = admission_limits(context.machine)
    file = context.bytes_of("quantized")
    with about_the_quantized_file():
        quantized = admit_to_run(file, limits)
    context.check()
    inputs = context.workspace.inputs(config.samples)
    samples, network = inputs.dataset.inputs, inputs.network
    shapes = shapes_of_sample(samples)
    check_takes(quantized, {spec.name: (spec.dtype, shapes[spec.name]) for spec in network.inputs}, network.batching)
    context.check()
    axes = tuple((spec.name, network.batching.input_axis(spec.name)) for spec in network.inputs)
    work = context.work_limits
    with about_the_quantized_file():
        check_sample(quantized, limits, work, samples, axes)
        batching = batching_of_another(file, quantized, network.batching, samples, context.machine.threads, work)
    return pack({"batching": batching.document()})


@contextmanager
def about_the_quantized_file() -> Iterator[None]:
    """Errors say which of the two files they mean; one that ONNX Runtime refuses is not runnable."""
    try:
        yield
    except ModelInvalid as error:
        raise FileNotInspected(f"the quantized file: {error}") from error
    except NetworkError as error:
        raise type(error)(f"the quantized file: {error}") from error

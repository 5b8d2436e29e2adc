"""Admit pair: may these two files be run, and can both be fed the same samples?"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from evaluation.runner import OnnxRunner
from network.admission import input_specs
from network.batch_axes import find_batching
from network.batching import shapes_of_sample
from network.errors import ModelInvalid, NetworkError
from network.uploaded import admit_to_run, check_takes
from pipeline.certificate_config import AdmitPairConfig
from pipeline.context import Context
from pipeline.results import pack
from pipeline.stages.admit import check_sample_memory, further_arrays
from pipeline.workspace import admission_limits
from quantization.errors import FileNotInspected


def run(context: Context, config: AdmitPairConfig) -> bytes:
    """The shape of one sample of every input, after everything that may be wrong with the uploads was looked at.

    Raises:
        NetworkError: one of the files; a text about the second begins with "the quantized file".
        FileNotInspected: ONNX Runtime does not load the quantized file.
        InterfaceDiffers: it has other inputs.
        DatasetError: the data do not fit the float model.
    """
    limits = admission_limits(context.machine)
    float_file = context.model_path.read_bytes()
    model = admit_to_run(float_file, limits)
    context.check()
    quantized_file = context.bytes_of("quantized")
    with about_the_quantized_file():
        quantized = admit_to_run(quantized_file, limits)
    context.check()
    dataset = context.workspace.dataset(input_specs(model), config.samples.seed, further_arrays(config.own_metric))
    samples = dataset.inputs
    check_sample_memory(model, limits, samples, config.batch_axes)
    batching = find_batching(float_file, model, samples, dict(config.batch_axes), context.machine.threads)
    types = {spec.name: spec.dtype for spec in input_specs(model)}
    shapes = shapes_of_sample(samples)
    check_takes(quantized, {name: (types[name], shape) for name, shape in shapes.items()}, batching)
    context.check()
    with about_the_quantized_file():
        check_sample_memory(quantized, limits, samples, config.batch_axes)
        OnnxRunner(quantized_file, context.machine.threads, batching=batching)
    return pack(
        {
            "inputs": {name: list(shape) for name, shape in shapes.items()},
            "samples": dataset.samples,
            "batching": batching.document(),
        }
    )


@contextmanager
def about_the_quantized_file() -> Iterator[None]:
    """Errors say which of the two files they mean; one that ONNX Runtime refuses is not runnable."""
    try:
        yield
    except ModelInvalid as error:
        raise FileNotInspected(f"the quantized file: {error}") from error
    except NetworkError as error:
        raise type(error)(f"the quantized file: {error}") from error

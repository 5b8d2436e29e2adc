"""Admit float: may this float network be run as it is, and do the data fit it?"""

from __future__ import annotations

from network.batch_axes import find_batching
from network.batching import shapes_of_sample
from network.tensor_spec import input_specs
from network.uploaded import admit_to_run
from pipeline.certificate_config import AdmitFloatConfig
from pipeline.context import Context
from pipeline.results import pack
from pipeline.stages.admit import check_sample, further_arrays
from pipeline.workspace import admission_limits


def run(context: Context, config: AdmitFloatConfig) -> bytes:
    """The shape of one sample of every input, how many samples there are, and how they become calls.

    Raises:
        NetworkError: the network may not be run.
        DatasetError: the data do not fit it.
    """
    limits = admission_limits(context.machine)
    model = admit_to_run(context.model_path.read_bytes(), limits)
    context.check()
    dataset = context.workspace.dataset(input_specs(model), config.samples.seed, further_arrays(config.own_metric))
    check_sample(model, limits, context.work_limits, dataset.inputs, config.batch_axes)
    axes, threads = dict(config.batch_axes), context.machine.threads
    batching = find_batching(context.model_path, model, dataset.inputs, axes, threads, context.work_limits)
    shapes = {name: list(shape) for name, shape in shapes_of_sample(dataset.inputs).items()}
    return pack({"inputs": shapes, "samples": dataset.samples, "batching": batching.document()})

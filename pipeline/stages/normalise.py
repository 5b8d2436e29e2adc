"""Normalise: the admitted model as one dialect, with the shapes that the data fixes and the outputs that it had."""

from __future__ import annotations

import tempfile
from typing import IO

from network.admission import admit
from network.batching import Batching
from network.faithful import faithful
from network.normalise import dump_parts
from network.tensor_spec import input_specs
from pipeline.config import NormaliseConfig
from pipeline.context import Context
from pipeline.results import unpack
from pipeline.workspace import admission_limits


def run(context: Context, config: NormaliseConfig) -> IO[bytes]:
    """The normalised network as ONNX bytes."""
    document, _ = unpack(context.read("admit"))
    shapes = {name: tuple(shape) for name, shape in document["inputs"].items()}
    model = admit(context.model_path.read_bytes(), admission_limits(context.machine))
    dataset = context.workspace.dataset(input_specs(model), seed=0)
    context.check()
    batching = Batching.of_document(document["batching"])
    threads, requantize = context.machine.threads, config.requantize
    network = faithful(context.model_path, model, dataset.inputs, shapes, threads, batching, requantize=requantize)
    file = tempfile.TemporaryFile()  # noqa: SIM115 - whoever stores it closes it
    file.writelines(dump_parts(network))
    return file

"""Normalise: the admitted model as one dialect, with the shapes that the data fixes."""

from __future__ import annotations

from network import normalise
from network.admission import admit
from pipeline.config import Nothing
from pipeline.context import Context
from pipeline.results import unpack
from pipeline.stages.admit import admission_limits


def run(context: Context, _config: Nothing) -> bytes:
    """The normalised network as ONNX bytes."""
    document, _ = unpack(context.read("admit"))
    shapes = {name: tuple(shape) for name, shape in document["inputs"].items()}
    model = admit(context.model_path.read_bytes(), admission_limits(context.machine))
    network = normalise.normalise(model, shapes)
    return normalise.dump(network)

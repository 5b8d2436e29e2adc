"""What is fed to a network, as its file declares it."""

from __future__ import annotations

from dataclasses import dataclass

from onnx import ModelProto, helper

from network.onnx_graph import own_inputs, shape_of


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A graph input or output: its name, numpy dtype name, and shape; `None` is the batch axis, or an unknown length.

    The other axes have the lengths of the samples, also those that the file leaves free.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...]


def input_specs(model: ModelProto) -> tuple[TensorSpec, ...]:
    """What has to be fed to an admitted model: graph inputs without initializers; an axis that the file leaves open is
    `None`."""
    specs = []
    for value in own_inputs(model.graph):
        dtype = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        specs.append(TensorSpec(value.name, dtype.name, tuple(length or None for length in shape_of(value) or ())))
    return tuple(specs)

"""The interface of a file: names, order, types and axes of its inputs and outputs, which a delivered file has again.

While a network is normalised every free axis has a symbol of its own, whatever the file calls it: two axes of one name
need not have one length in every run, and rules that fold shapes take equal names for equal lengths. The batch axis
(`network.batching`) is one symbol for all inputs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import onnx

from network.batching import Batching
from network.errors import ShapesNotFixed

BATCH_AXIS = "N"
"""What the batch axis is called while a network is normalised."""

_Dimension = onnx.TensorShapeProto.Dimension


@dataclass(frozen=True)
class Interface:
    """Inputs and outputs as the file declares them; `free`: axes besides the batch axis have no fixed length."""

    inputs: tuple[onnx.ValueInfoProto, ...]
    outputs: tuple[onnx.ValueInfoProto, ...]
    batching: Batching
    free: bool

    @classmethod
    def of(cls, graph: onnx.GraphProto, sample_shapes: Mapping[str, Sequence[int]], batching: Batching) -> Interface:
        """That of a graph whose initializers are no inputs.

        Args:
            graph: not changed.
            sample_shapes: by input name the shape of one sample, without the batch axis.
            batching: which axis that is.

        Raises:
            ShapesNotFixed: a free axis besides the batch axis is none of `sample_shapes`.
        """
        axes = [batching.input_axis(value.name) for value in graph.input]
        free = [
            _has_free_axes(value, axis, sample_shapes.get(value.name))
            for value, axis in zip(graph.input, axes, strict=True)
        ]
        return cls(tuple(map(_copy, graph.input)), tuple(map(_copy, graph.output)), batching, any(free))

    def open(self, graph: onnx.GraphProto) -> None:
        """Give the free axes of `graph`, whose interface this is, symbols of their own.

        Where axes besides the batch axis are free, the axes that the file declares of its outputs are dropped: they are
        claims, and not needed to fold.
        """
        for value in graph.input:
            for axis, dim in enumerate(value.type.tensor_type.shape.dim):
                if not _is_fixed(dim):
                    batch = axis == self.batching.input_axis(value.name)
                    _name(dim, BATCH_AXIS if batch else f"{value.name}.shape[{axis}]")
        if self.free:
            for value in graph.output:
                value.type.tensor_type.ClearField("shape")

    def restore(self, graph: onnx.GraphProto) -> None:
        """Give the inputs and outputs of `graph` the axes that the file declares.

        A free axis that it gives no name, or writes as 0 or -1, has none afterwards; a shape that it does not declare
        stays as it is, but for the symbols of `open`.
        """
        for value, declared in zip(graph.input, self.inputs, strict=True):
            dims = value.type.tensor_type.shape.dim
            for dim, own in zip(dims, declared.type.tensor_type.shape.dim, strict=True):
                if not _is_fixed(own):
                    _name(dim, own.dim_param)
        for value, declared in zip(graph.output, self.outputs, strict=True):
            own_type = declared.type.tensor_type
            if own_type.HasField("shape"):
                value.type.tensor_type.shape.CopyFrom(own_type.shape)
            elif self.free:
                value.type.tensor_type.ClearField("shape")


def free_axes(inputs: Iterable[onnx.ValueInfoProto], batching: Batching) -> dict[str, dict[int, str]]:
    """By input its axes besides the batch axis that have no fixed length, each with its symbol: an unnamed axis has its
    own, and axes of one symbol have one length."""
    return {
        value.name: {
            axis: dim.dim_param or f"{value.name}.shape[{axis}]"
            for axis, dim in enumerate(value.type.tensor_type.shape.dim)
            if axis != batching.input_axis(value.name) and not _is_fixed(dim)
        }
        for value in inputs
    }


def _has_free_axes(value: onnx.ValueInfoProto, batch: int | None, sample_shape: Sequence[int] | None) -> bool:
    dims = value.type.tensor_type.shape.dim
    free = [axis for axis, dim in enumerate(dims) if axis != batch and not _is_fixed(dim)]
    if free and (sample_shape is None or len(sample_shape) != len(dims) - (batch is not None)):
        raise ShapesNotFixed(
            f"axis {free[0]} of input {value.name!r} is dynamic ({dims[free[0]].dim_param or 'unnamed'}) and no data "
            f"fixes it; add a dataset with an array {value.name!r}, or export the model with this axis fixed"
        )
    return bool(free)


def _is_fixed(dim: _Dimension) -> bool:
    return bool(dim.HasField("dim_value") and dim.dim_value > 0)  # some exporters write a free axis as 0 or -1


def _name(dim: _Dimension, name: str) -> None:
    dim.Clear()
    if name:
        dim.dim_param = name


def _copy(value: onnx.ValueInfoProto) -> onnx.ValueInfoProto:
    copy = onnx.ValueInfoProto()
    copy.CopyFrom(value)
    return copy

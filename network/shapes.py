"""Shapes of the values of a network for one sample: those that a run showed (`network.observed`), others by inference.

Where axes besides the batch axis are free, the graph may compute shapes from them (Shape, Gather, Concat, Reshape).
With the shapes of the samples these are constants, and can be folded where inference does not follow them, in a copy
without large weights.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import onnx
import onnx_ir as ir
from onnxscript import optimizer

from network.batching import Batching
from network.onnx_graph import graphs, initializer_names, is_standard, own_inputs, shape_of, shape_skeleton

# Elements; what has more is no shape.
_LARGEST_FOLDED = 1 << 16

SampleShapes = Mapping[str, Sequence[int]]
"""By graph input the shape of one sample, without the batch axis; empty where the graph itself fixes all lengths."""


@dataclass(frozen=True, slots=True)
class Observation:
    """A tensor as a run made it: its element type, its shape, how often it was made and its elements over all times.

    In the body of If, Loop or Scan a tensor may be made several times: then each length is the largest; or never: then
    its shape, and how many axes that has, is not known.
    """

    elem_type: int
    shape: tuple[int, ...]
    times: int
    elements: int

    @classmethod
    def once(cls, elem_type: int, shape: Sequence[int]) -> Observation:
        """Of a tensor of the main graph."""
        return cls(elem_type, tuple(shape), 1, math.prod(shape))


Observed = Mapping[str, Observation]
"""By name what one call of a network showed of its tensors, without initializers; empty where nothing was run."""

NOTHING: Observed = MappingProxyType({})


def inferred_values(
    proto: onnx.ModelProto,
    batch: int,
    sample_shapes: SampleShapes,
    batching: Batching,
    observed: Observed = NOTHING,
) -> onnx.GraphProto:
    """The graph of a normalised network with the types and shapes of its values, and without large weights.

    A free batch axis of an input is `batch`, any other that of `sample_shapes`; what outputs declare does not count.
    What was `observed`, in a run of as many samples, holds; the others are inferred. Nodes that only compute shapes may
    be missing.
    """
    skeleton = shape_skeleton(proto)
    shown = {name: value for name, value in observed.items() if value.times}
    if shown:
        _state(skeleton.graph, shown)
        if {name for graph in graphs(skeleton.graph) for name in _made(graph)} <= shown.keys():
            return skeleton.graph
    for value in skeleton.graph.input[: len(own_inputs(proto.graph))]:
        fix_axes(value, batching.input_axis(value.name), batch, sample_shapes.get(value.name))
    for node in skeleton.graph.node:
        # onnx infers nothing for it, nor then for what reads it; it keeps type and shape
        if node.op_type == "GroupNormalization" and is_standard(node):
            node.CopyFrom(onnx.helper.make_node("Identity", node.input[:1], node.output))
    values = onnx.shape_inference.infer_shapes(skeleton, data_prop=True).graph
    if shown:
        _state(values, shown)
        return values
    if not sample_shapes or _made(skeleton.graph) <= known_shapes(values).keys():
        return values
    # inference follows the usual arithmetic of shapes; folding, which takes much longer, follows all of it
    model = ir.serde.deserialize_model(skeleton)
    optimizer.fold_constants(
        model, onnx_shape_inference=True, input_size_limit=_LARGEST_FOLDED, output_size_limit=_LARGEST_FOLDED
    )
    return onnx.shape_inference.infer_shapes(ir.serde.serialize_model(model), data_prop=True).graph


def _state(graph: onnx.GraphProto, observed: Observed) -> None:
    """Write what was observed into a graph and its bodies, over what they say."""
    for inner in graphs(graph):
        for value in (*inner.input, *inner.output):
            if value.name in observed:
                value.CopyFrom(_value_info(value.name, observed))
        made = {name for node in inner.node for name in node.output if name in observed}
        others = [value for value in inner.value_info if value.name not in made]
        del inner.value_info[:]
        inner.value_info.extend(others)
        inner.value_info.extend(_value_info(name, observed) for name in sorted(made))


def _value_info(name: str, observed: Observed) -> onnx.ValueInfoProto:
    return onnx.helper.make_tensor_value_info(name, observed[name].elem_type, observed[name].shape)


def _made(graph: onnx.GraphProto) -> set[str]:
    return {name for node in graph.node for name in node.output if name}


def fix_axes(value: onnx.ValueInfoProto, axis: int | None, batch: int, sample_shape: Sequence[int] | None) -> None:
    """Give the free axes of a graph input their lengths, as far as they are known: `axis` is the batch axis."""
    lengths = iter(sample_shape or ())
    for place, dim in enumerate(value.type.tensor_type.shape.dim):
        length = batch if place == axis else next(lengths, None)
        if not dim.HasField("dim_value") and length is not None:
            dim.dim_value = length


def known_shapes(values: onnx.GraphProto) -> dict[str, tuple[int, ...]]:
    """Of all values, also weights, those shapes that are wholly known."""
    shapes: dict[str, tuple[int, ...]] = {}
    described = (value for inner in graphs(values) for value in (*inner.input, *inner.value_info, *inner.output))
    for value in described:
        shape = shape_of(value)
        known = tuple(length for length in shape or () if length is not None)
        if shape is not None and len(known) == len(shape):
            shapes[value.name] = known
    return shapes


def float_shapes(proto: onnx.ModelProto, values: onnx.GraphProto) -> tuple[dict[str, tuple[int, ...]], set[str]]:
    """Of the inferred `values` of `proto` the known shapes of those that are float32, and the names of all these;
    without initializers."""
    described = (*values.input, *values.value_info, *values.output)
    floats = {value.name for value in described if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT}
    floats -= initializer_names(proto.graph)
    return {name: shape for name, shape in known_shapes(values).items() if name in floats}, floats

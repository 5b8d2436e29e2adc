"""The activation sites of a normalised graph: which values between layers may be quantized, and which go together.

ONNX Runtime runs a layer in integers when what it reads and writes is quantized. Its CPU rules (1.31, the QDQ selectors
of its optimiser), which the sites follow:

    Conv                                     input and output; a Relu or Clip behind it is part of it
    Gemm, MatMul with a weight on the right  input; the output may stay float
    MatMul of two values                     both inputs
    Add, Mul, Concat of values only          inputs and output
    AveragePool, GlobalAveragePool,
    LeakyRelu, Sigmoid                       input and output
    Reshape, Transpose, MaxPool, Slice, ...  move values: what they make has the format of what they read

The tensor between a layer and the Relu or Clip behind it is therefore no site, nor is what only other operators
(LayerNormalization, Softmax) read and write, what holds masks (`network.masks`), or what lies within an operator that
an older opset writes as several (`network.expansion`). Constants, integers, shape arithmetic and what depends on
nothing but shapes (a mask made for the length of the input) never are. Concat takes inputs of different scales, so that
its inputs stay sites of their own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass

import onnx
from onnx import numpy_helper

from network.expansion import is_expanded
from network.graph import Network
from network.masks import masked_values
from network.onnx_graph import attributes, is_standard, names_read

_OF_SHAPES = ("Shape", "Size")  # what they make depends on lengths alone


@dataclass(frozen=True, slots=True)
class ActivationSite:
    """Tensors with one format and one set of parameters: the first is computed, the others are its values moved.

    `name` is that of the first tensor, unless a layer has that name; `elements` counts its values for one sample, None
    where shapes are not known.
    """

    name: str
    tensors: tuple[str, ...]
    elements: int | None


def find_activations(network: Network) -> tuple[ActivationSite, ...]:
    """All activation sites, in graph order."""
    graph = _Graph(network)
    wanted = _wanted(graph)
    members: dict[str, list[str]] = {}
    site_of: dict[str, str] = {}
    inputs = [spec.name for spec in network.inputs]
    for name in [*inputs, *(name for node in graph.nodes for name in node.output)]:
        source = graph.moved.get(name, "")
        site = site_of.get(source) or (name if name in wanted else "")
        if site:
            site_of[name] = site
            members.setdefault(site, []).append(name)
    layers = {alias for site in network.sites for alias in site.aliases}
    return tuple(
        ActivationSite(_own_name(name, layers, members), tuple(tensors), _elements(network, graph.shapes.get(name)))
        for name, tensors in members.items()
    )


def _elements(network: Network, shape: tuple[int, ...] | None) -> int | None:
    return None if shape is None else -(-math.prod(shape) // (network.static_batch or 1))


def moved_from(network: Network) -> dict[str, str]:
    """For every value that a node only moves (or repeats, drops, pads with zero): the value it moves."""
    return {
        output: node.input[0]
        for node in network.proto.graph.node
        if node.input and _is_known(node) and _moves(node, network.initializers)
        for output in node.output
        if output
    }


def sole_readers(network: Network) -> dict[str, onnx.NodeProto]:
    """For every value that one node of the main graph reads, once, and nothing else: that node. Outputs have none."""
    outputs = {spec.name for spec in network.outputs}
    return {
        name: nodes[0]
        for name, nodes in network.readers.items()
        if len(nodes) == 1 and name not in outputs and name in nodes[0].input
    }


def ranges_at_other_lengths(network: Network) -> dict[str, tuple[float, float]]:
    """By tensor name the lowest and highest value that it may have, where samples of one length do not show them.

    A Softmax over ten keys stays far below 1, over the first key alone it is 1. Empty where no axis besides the batch
    axis is free.
    """
    if not network.sample_shapes:
        return {}
    nodes = [node for node in network.proto.graph.node if node.op_type == "Softmax" and is_standard(node)]
    return {node.output[0]: (0.0, 1.0) for node in nodes}


def constant_shapes(network: Network) -> dict[str, tuple[int, ...]]:
    """The shapes of float values that are computed from initializers alone."""
    variable = _dependent(network)
    shapes, _ = network.float_shapes
    return {name: shape for name, shape in shapes.items() if name not in variable}


def _dependent(network: Network, not_through: Container[str] = ()) -> set[str]:
    """The values that depend on an input of the graph by way of operators other than those `not_through`."""
    dependent = {spec.name for spec in network.inputs}
    for node in network.proto.graph.node:
        if dependent.intersection(names_read(node)) and not (is_standard(node) and node.op_type in not_through):
            dependent.update(node.output)
    return dependent


def _own_name(tensor: str, layers: Container[str], tensors: Container[str]) -> str:
    """A name for the site of a tensor that is neither that of a layer, nor of another tensor: a node may be called like
    what it makes, and in a plan each needs its own."""
    name = tensor
    while name in layers or (name != tensor and name in tensors):
        name += " (activation)"
    return name


class _Graph:
    """What the rules ask of a graph."""

    def __init__(self, network: Network) -> None:
        self.nodes = list(network.proto.graph.node)
        self.initializers = network.initializers
        self.sole_readers = sole_readers(network)
        self.shapes, floats = network.float_shapes
        dependent = _dependent(network, _OF_SHAPES)
        self._masked = masked_values(self.nodes, self.initializers, dependent)
        self.values = dependent & floats - {""} - {
            name for node in self.nodes if self.is_refused(node) for name in node.output
        }
        self.moved = {
            name: source
            for name, source in moved_from(network).items()
            if name in self.values and source in self.values
        }

    def is_refused(self, node: onnx.NodeProto) -> bool:
        """Whether what the node makes stays float: it is masked, or ONNX Runtime would refuse it."""
        return _is_refused(node) or not self._masked.isdisjoint(node.output)

    def end(self, output: str) -> str:
        """What a layer's output becomes in the Relu or Clip that is part of the layer: one, read by nothing else."""
        reader = self.sole_readers.get(output)
        if reader is None or reader.op_type not in ("Relu", "Clip") or reader.input[0] != output:
            return output
        if not all(name in self.initializers for name in reader.input[1:] if name):
            return output
        return str(reader.output[0])


def _is_known(node: onnx.NodeProto) -> bool:
    """Whether the rules are about this node: not where it is of another domain, nor where it is a part of an operator
    that the network's opset does not have, so that the sites are those of the network with the operator."""
    return is_standard(node) and not is_expanded(node)


def _is_refused(node: onnx.NodeProto) -> bool:
    """Whether ONNX Runtime makes a node that it then refuses from this one between quantized tensors: so that its
    output stays as it is. QLinearAveragePool has no dilations."""
    return node.op_type == "AveragePool" and any(dilation != 1 for dilation in attributes(node).get("dilations", ()))


def _moves(node: onnx.NodeProto, initializers: Mapping[str, onnx.TensorProto]) -> bool:
    match node.op_type:
        case "Pad":
            fill = node.input[2] if len(node.input) > 2 else ""
            return not fill or (fill in initializers and not numpy_helper.to_array(initializers[fill]).any())
        case "Resize":
            given = attributes(node)
            crops = given.get("coordinate_transformation_mode") == b"tf_crop_and_resize"
            return given.get("mode", b"nearest") == b"nearest" and not crops
        case "MaxPool":
            return len(node.output) == 1
    return node.op_type in _MOVERS


_MOVERS = frozenset(
    {"DepthToSpace", "Expand", "Flatten", "Gather", "GatherElements", "Identity", "Reshape", "Slice", "SpaceToDepth"}
    | {"Split", "Squeeze", "Tile", "Transpose", "Unsqueeze"}
)


def _wanted(graph: _Graph) -> set[str]:
    """What an integer kernel reads or writes, and what is only moved to get there."""
    wanted: set[str] = set()
    for node in graph.nodes:
        rule = _READS.get(node.op_type) if _is_known(node) and not graph.is_refused(node) else None
        reads = rule(graph, node) if rule else ()
        wanted.update(reads)
        if reads and node.op_type not in _MAY_RETURN_FLOATS:
            wanted.add(graph.end(node.output[0]))
    for node in reversed(graph.nodes):
        source = node.input[0] if node.input else ""
        outputs = [name for name in node.output if name]
        if all(graph.moved.get(name) == source and name in wanted for name in outputs) and source in graph.sole_readers:
            wanted.add(source)
    return wanted & graph.values


def _before_weight(graph: _Graph, node: onnx.NodeProto) -> tuple[str, ...]:
    left, right = node.input[:2]
    return (left,) if left in graph.values and right in graph.initializers else ()


def _all(graph: _Graph, node: onnx.NodeProto) -> tuple[str, ...]:
    return tuple(node.input) if all(name in graph.values for name in node.input) else ()


def _weight_or_all(graph: _Graph, node: onnx.NodeProto) -> tuple[str, ...]:
    return _before_weight(graph, node) or _all(graph, node)


# What an integer kernel must have quantized of its inputs, none where it cannot run.
_READS: Mapping[str, Callable[[_Graph, onnx.NodeProto], tuple[str, ...]]] = {
    "Conv": _before_weight,
    "Gemm": _before_weight,
    "MatMul": _weight_or_all,
} | dict.fromkeys(("Add", "Mul", "Concat", "AveragePool", "GlobalAveragePool", "LeakyRelu", "Sigmoid"), _all)
_MAY_RETURN_FLOATS = ("Gemm", "MatMul")

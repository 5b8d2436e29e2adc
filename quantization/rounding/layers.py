"""Which reduction a layer of the network is, and which tensors make its columns."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import onnx

from network.graph import Layer, Network
from network.onnx_graph import attributes as attributes_of
from network.sites import RECURRENT
from network.tables import TableProduct, table_product
from network.taps import output_name
from quantization.rounding.convolution import convolution
from quantization.rounding.reduction import (
    MatrixReduction,
    NotReducible,
    RecurrentReduction,
    Reduction,
    StackReduction,
)

_MOVING = ("Identity", "Reshape", "Squeeze", "Unsqueeze")
MOST_BYTES = 1 << 29
"""Of the second moments of one weight, 8,192 columns; GPTQ takes two and a half times as much."""


def read_by(network: Network, layer: Layer) -> tuple[str, ...]:
    """The tensors that make the columns of `Reduction`, as `network.taps` calls them: what the layer multiplies its
    weight with. The matrix R of a recurrent node has two, the node's own states and the initial ones (if it gets any);
    a table has what multiplies the matrices that are picked."""
    node, weight = network.nodes[layer.name], layer.read_as
    if node.op_type in RECURRENT and weight == node.input[2]:
        return (output_name(node, 0), *(name for name in node.input[5:6] if name))
    if (product := _table_product(network, layer)) is not None:
        return (_before_moves(network, product),)
    return (next(name for name in node.input if name and name != weight),)


def reduction_of(network: Network, layer: Layer, shape: tuple[int, ...]) -> Reduction | NotReducible:
    """How a layer uses its weight, of `shape`.

    The matrices of a table share the second moments of all inputs that any of them multiplies: an expert that few
    samples reach could not have its own.
    """
    if layer.inner:
        return NotReducible("it lies in the body of an If, Loop or Scan, whose values are not seen from outside")
    node = network.nodes[layer.name]
    if layer.is_table:
        return NotReducible(f"{node.op_type} multiplies no input with it, so each row is rounded by itself")
    if (product := _table_product(network, layer)) is not None:
        return MatrixReduction(len(shape) + product.reduced_axis, product.operand_axis)
    if not layer.order:
        return reduction(node, layer.weight, shape)
    seen = reduction(node, layer.view, tuple(shape[axis] for axis in layer.order))
    if isinstance(seen, MatrixReduction):
        return replace(seen, reduced_axis=layer.order[seen.reduced_axis])
    if isinstance(seen, NotReducible):
        return seen
    return NotReducible("it reads its weight with the axes in another order")


def _before_moves(network: Network, product: TableProduct) -> str:
    """The operand as early as it has the same columns: it may be made behind the Gather, which waits for its table."""
    name, shapes = product.operand, network.float_shapes[0]
    while product.operand_axis == -1 and (node := network.makers.get(name)) is not None:
        before, after = shapes.get(node.input[0], ()), shapes.get(name, ())
        if node.op_type not in _MOVING or not before or before[-1:] != after[-1:]:
            break
        name = node.input[0]
    return name


def _table_product(network: Network, layer: Layer) -> TableProduct | None:
    if layer.op_type != "Gather" or layer.view:
        return None
    shape = tuple(network.initializers[layer.weight].dims)
    return table_product(network.nodes[layer.name], shape, network.readers, network.float_shapes[0])


def reduction(node: onnx.NodeProto, weight: str, shape: tuple[int, ...]) -> Reduction | NotReducible:
    """How `node` uses the initializer called `weight`, which has `shape`."""
    attributes = attributes_of(node)
    position = list(node.input).index(weight)
    match node.op_type:
        case "Conv" | "ConvTranspose" if position == 1:
            return convolution(node.op_type, attributes, shape)
        case "Gemm" if len(shape) == 2:
            if position == 1:
                return MatrixReduction(1 if attributes.get("transB", 0) else 0, 0 if attributes.get("transA", 0) else 1)
            if position == 0:
                return MatrixReduction(0 if attributes.get("transA", 0) else 1, 1 if attributes.get("transB", 0) else 0)
        case "MatMul" if len(shape) == 2:
            return MatrixReduction(0, -1) if position == 1 else MatrixReduction(1, -2)
        case "MatMul" if len(shape) > 2:
            return _stack(position, shape)
        case "LSTM" | "GRU" | "RNN" if position in (1, 2):
            return _recurrent(node, attributes, position)
        case "Gather":
            return NotReducible("Gather copies rows of its table; it multiplies no input, so each is rounded by itself")
    return NotReducible(f"{node.op_type} has no matrix product with its input {position} of shape {shape}")


def _stack(position: int, shape: tuple[int, ...]) -> Reduction:
    """Each matrix with second moments of its own, or all with those of all inputs, where these take too much memory."""
    reduced_axis, input_axis = (len(shape) - 2, -1) if position == 1 else (len(shape) - 1, -2)
    if 8 * math.prod(shape[:-2]) * shape[reduced_axis] ** 2 > MOST_BYTES:
        return MatrixReduction(reduced_axis, input_axis)
    return StackReduction(shape[:-2], is_left=position == 0)


def _recurrent(node: onnx.NodeProto, attributes: Mapping[str, Any], position: int) -> RecurrentReduction | NotReducible:
    if node.input[1] == node.input[2]:
        return NotReducible(f"{node.op_type} multiplies both its inputs and its states with this weight")
    backwards = {b"forward": (False,), b"reverse": (True,), b"bidirectional": (False, True)}
    return RecurrentReduction(
        backwards[attributes.get("direction", b"forward")],
        recurrent=position == 2,
        batch_first=attributes.get("layout", 0) == 1,
    )

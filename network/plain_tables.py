"""Tables that no layer multiplies its input with: positions and biases that are added, features that are cut out of a
table or scaled by one, weights that others are computed from.

Rounding such a table is safe where everything that its values reach only moves, adds or multiplies them: errors stay in
proportion. What divides by them, compares them, or takes them for lengths, scales or exponents needs all their digits.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from onnx import GraphProto, NodeProto, TensorProto, helper, numpy_helper

from network.finite import FLOAT_TYPES, is_finite
from network.masks import chooses
from network.onnx_graph import attributes, graphs, is_standard

SMALL = "too small to pay: biases, norms and other small constants"
FEWEST_ELEMENTS = 1024
"""Of a table: below it the names, scales and calls that store it in fewer bits take a good part of what they save."""
SMALLEST_SHARE = 0.01
"""Of the bytes of all large float constants: less makes no file smaller to speak of, and every site is measured in each
of its formats."""
FEWEST_TO_A_SCALE = 64
"""Elements: a scale of four bytes then costs at most half a bit for each."""

# Operators by what they do with their inputs, of which those at the given places count; None: all.
_MOVE: Mapping[str, tuple[int, ...] | None] = {
    **dict.fromkeys(("Compress", "DepthToSpace", "Expand", "Flatten", "GatherElements", "GatherND", "Identity"), (0,)),
    **dict.fromkeys(("Gather", "Pad", "Reshape", "Slice", "SpaceToDepth", "Split", "Squeeze", "Tile"), (0,)),
    **dict.fromkeys(("Transpose", "Unsqueeze"), (0,)),
}
_JOIN: Mapping[str, tuple[int, ...] | None] = {
    **dict.fromkeys(("ScatterElements", "ScatterND"), (0, 2)),
    "Concat": None,
    "Where": (1, 2),
}
_COMPUTE: Mapping[str, tuple[int, ...] | None] = {
    **dict.fromkeys(("Add", "Einsum", "Max", "Mean", "Min", "Mul", "PRelu", "Sub", "Sum"), None),
    **dict.fromkeys(("Conv", "ConvTranspose", "GRU", "Gemm", "LSTM", "MatMul", "RNN"), None),
    **dict.fromkeys(("Abs", "Exp", "Neg", "Relu", "Sigmoid", "Softmax", "Softplus", "Tanh"), None),
    **dict.fromkeys(("ReduceL1", "ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum"), (0,)),
    **dict.fromkeys(("Div", "GridSample", "ReduceSumSquare", "Resize"), (0,)),
    "LayerNormalization": (1, 2),
}
TABLE_INPUTS: Mapping[str, tuple[int, ...] | None] = {**_MOVE, **_JOIN, **_COMPUTE}
"""The operators that may read a table, and where: such as every opset has, because those that are written as others for
an older opset would read it otherwise there."""
PRODUCTS = frozenset(("Conv", "ConvTranspose", "Einsum", "GRU", "Gemm", "LSTM", "MatMul", "RNN"))
"""The operators whose multiply-accumulates count."""
_INTEGERS = frozenset({"DequantizeLinear", "QuantizeLinear", "DynamicQuantizeLinear"})
_INTEGER_PREFIXES = ("QLinear", "QGemm", "QAttention", "MatMulInteger", "ConvInteger", "MatMulNBits", "GatherBlock")


@dataclass(frozen=True, slots=True)
class TableUse:
    """The node of a table's first use, and the axis along which the table has scales. `products` multiply an input with
    a part of the table that is cut out in each run, as with any weight: each node with the name of that part."""

    node: NodeProto
    channel_axis: int
    products: tuple[tuple[NodeProto, str], ...] = ()


@dataclass(frozen=True, slots=True)
class NoTable:
    """Why a constant is no table; `is_small`: it would not pay."""

    reason: str
    is_small: bool = False


class PlainTables:
    """Looks at the float constants of a graph.

    Args:
        graph: normalised.
        readers: the nodes that read a value, by its name, in inner graphs too.
    """

    def __init__(self, graph: GraphProto, readers: Mapping[str, Sequence[NodeProto]]) -> None:
        self._tensors = {tensor.name: tensor for tensor in graph.initializer}
        self._readers = readers
        self._outputs = {value.name for value in graph.output}
        self._leaving = {value.name for own in graphs(graph) for value in own.output} - self._outputs
        floats = (tensor for tensor in graph.initializer if tensor.data_type in FLOAT_TYPES and not is_small(tensor))
        self._bytes = sum(map(float_bytes, floats))

    def look_at(self, tensor: TensorProto) -> TableUse | NoTable:
        """How a float initializer that no layer has for its weight is read, or why it is no table."""
        shape, readers = tuple(tensor.dims), self._readers.get(tensor.name, ())
        if is_small(tensor):
            return NoTable(SMALL, is_small=True)
        if not readers:
            return NoTable("read by no operator")
        if all(map(_is_quantized, readers)):
            return NoTable(f"already quantized: read by {' and '.join(sorted({*map(_called, readers)}))}")
        if foreign := sorted({_called(node) for node in readers if not is_standard(node)}):
            return NoTable(f"read by {' and '.join(foreign)}, which has no format here")
        if not is_finite(tensor):
            return NoTable("not finite: it holds infinities or NaN")
        if chooses(numpy_helper.to_array(tensor)):
            return NoTable("a mask")
        if tensor.data_type != TensorProto.FLOAT:
            return NoTable(f"of type {helper.tensor_dtype_to_np_dtype(tensor.data_type)}, which has no format here")
        if (reason := self._needs_digits(tensor.name)) is not None:
            return NoTable(reason)
        if float_bytes(tensor) < SMALLEST_SHARE * self._bytes:
            return NoTable(f"less than {SMALLEST_SHARE:.0%} of the weights")
        return TableUse(readers[0], self._channel_axis(shape, readers), tuple(self._products(tensor.name)))

    def _needs_digits(self, name: str) -> str | None:
        """What reads a value, or what it is moved to, and cannot take it rounded; None where all can."""
        waiting, seen, constant = [name], {name}, {name}
        while waiting:
            value = waiting.pop()
            if value in self._leaving:
                return "passed on by a body of If, Loop or Scan"
            if value in self._outputs & constant:
                return "an output of the network"
            for node in self._readers.get(value, ()):
                places = {place for place, given in enumerate(node.input) if given == value}
                allowed = TABLE_INPUTS.get(node.op_type, ())
                if not is_standard(node) or (allowed is not None and not places <= set(allowed)):
                    return f"read by {_called(node)}, which takes no rounded values"
                if node.op_type in _COMPUTE:
                    continue
                waiting += [made for made in node.output if made and made not in seen]
                seen.update(node.output)
                if node.op_type in _MOVE and value in constant:
                    constant.update(node.output)
        return None

    def _products(self, name: str) -> Iterator[tuple[NodeProto, str]]:
        """The nodes that multiply with what the table is only moved to, and not with a weight of their own."""
        waiting, seen = [name], {name}
        while waiting:
            value = waiting.pop()
            for node in self._readers.get(value, ()):
                if node.op_type in PRODUCTS and not self._tensors.keys() & set(node.input[:2]):
                    yield node, value
                if node.op_type in _MOVE:
                    waiting += [made for made in node.output if made and made not in seen]
                    seen.update(node.output)

    def _channel_axis(self, shape: tuple[int, ...], readers: Sequence[NodeProto]) -> int:
        """The axis that rows are cut out along, so that rows which no sample reaches change no scale of others; else
        the longest that leaves enough elements to a scale."""
        cut = [axis for node in readers if (axis := self._cut_axis(node, len(shape))) is not None]
        if cut and shape[cut[0]] > 1:
            return cut[0]
        size = math.prod(shape)
        axes = sorted(range(len(shape)), key=lambda axis: -shape[axis])
        roomy = [axis for axis in axes if size >= FEWEST_TO_A_SCALE * shape[axis] and shape[axis] > 1]
        return roomy[0] if roomy else min(axes, key=lambda axis: (shape[axis] == 1, shape[axis]))

    def _cut_axis(self, node: NodeProto, rank: int) -> int | None:
        """The one axis along which a node takes a part of its first input; None for several, or none that is known."""
        if node.op_type == "GatherElements":
            return int(attributes(node).get("axis", 0)) % rank
        if node.op_type != "Slice" or len(node.input) < 4 or node.input[3] not in self._tensors:
            return None
        axes = numpy_helper.to_array(self._tensors[node.input[3]]).ravel()
        return int(axes[0]) % rank if len(axes) == 1 else None


def float_bytes(tensor: TensorProto) -> int:
    """The bytes of the values of a float tensor."""
    return int(math.prod(tensor.dims) * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)


def is_small(tensor: TensorProto) -> bool:
    """Whether it is a vector, or has few elements."""
    return bool(math.prod(tensor.dims) < FEWEST_ELEMENTS or sum(length > 1 for length in tensor.dims) < 2)


def _called(node: NodeProto) -> str:
    return str(node.op_type) if is_standard(node) else f"{node.domain}.{node.op_type}"


def _is_quantized(node: NodeProto) -> bool:
    """Whether the node works on integer codes, of which its floats are scales."""
    return node.op_type in _INTEGERS or node.op_type.startswith(_INTEGER_PREFIXES)

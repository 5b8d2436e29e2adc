"""Multiply-accumulates of an ONNX file, counted node by node from the shapes of a real run.

Nothing of the package is used: shapes are those of the arrays that ONNX Runtime returns when every value of the main
graph is an output, and what is computed from initializers alone is a weight. Nodes in bodies of If, Loop and Scan are
not counted: their values cannot be outputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Product:
    """Two operands that a node multiplies, and how many multiply-accumulates that takes."""

    node: str
    op_type: str
    operands: tuple[str, str]
    macs: int


def macs_with_weights(model: onnx.ModelProto, feed: Mapping[str, NDArray[Any]]) -> int:
    """Of one call, over all products of a weight and a value."""
    weights = constants(model.graph)
    return sum(p.macs for p in products(model, feed) if len(weights.intersection(p.operands)) == 1)


def macs_of_values(model: onnx.ModelProto, feed: Mapping[str, NDArray[Any]]) -> int:
    """Of one call, over all products of two values (attention)."""
    weights = constants(model.graph)
    return sum(p.macs for p in products(model, feed) if not weights.intersection(p.operands))


def products(model: onnx.ModelProto, feed: Mapping[str, NDArray[Any]]) -> list[Product]:
    """All products of the main graph in one call, in its order."""
    shapes = run_shapes(model, feed)
    made = []
    for node in model.graph.node:
        rule = _RULES.get(node.op_type) if node.domain in ("", "ai.onnx") else None
        for operands, macs in rule(node, shapes) if rule else ():
            made.append(Product(node.name, node.op_type, operands, macs))
    return made


def constants(graph: onnx.GraphProto) -> set[str]:
    """Initializers, and what depends on nothing else."""
    known = {tensor.name for tensor in graph.initializer} | {""}
    for node in graph.node:
        inner = any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute)
        if not inner and known.issuperset(node.input):
            known.update(node.output)
    return known - {""}


def run_shapes(model: onnx.ModelProto, feed: Mapping[str, NDArray[Any]]) -> dict[str, tuple[int, ...]]:
    """The shapes of inputs, initializers and all values of the main graph; of sequences none."""
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    there = {value.name for value in probe.graph.output}
    names = [name for node in probe.graph.node for name in node.output if name and name not in there]
    probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(probe.SerializeToString(), options, providers=["CPUExecutionProvider"])
    values = dict(zip([value.name for value in session.get_outputs()], session.run(None, dict(feed)), strict=True))
    shapes = {name: value.shape for name, value in {**values, **feed}.items() if isinstance(value, np.ndarray)}
    return shapes | {tensor.name: tuple(tensor.dims) for tensor in probe.graph.initializer}


_Counted = Iterator[tuple[tuple[str, str], int]]


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}


def _convolution(node: onnx.NodeProto, shapes: Shapes) -> _Counted:
    """Every element of the output takes every weight of its channel: `[C_out, C_in / group, *kernel]`."""
    weight = shapes[node.input[1]]
    yield (node.input[0], node.input[1]), math.prod(shapes[node.output[0]]) * math.prod(weight[1:])


def _transposed_convolution(node: onnx.NodeProto, shapes: Shapes) -> _Counted:
    """Every element of the input goes through every weight of its channel: `[C_in, C_out / group, *kernel]`."""
    weight = shapes[node.input[1]]
    yield (node.input[0], node.input[1]), math.prod(shapes[node.input[0]]) * math.prod(weight[1:])


def _gemm(node: onnx.NodeProto, shapes: Shapes) -> _Counted:
    rows, columns = shapes[node.input[0]]
    reduced = rows if _attributes(node).get("transA", 0) else columns
    yield (node.input[0], node.input[1]), math.prod(shapes[node.output[0]]) * reduced


def _matmul(node: onnx.NodeProto, shapes: Shapes) -> _Counted:
    yield (node.input[0], node.input[1]), math.prod(shapes[node.output[0]]) * shapes[node.input[0]][-1]


def _einsum(node: onnx.NodeProto, shapes: Shapes) -> _Counted:
    """Two operands without an ellipsis: the product of the lengths of all letters."""
    terms = _attributes(node)["equation"].decode().replace(" ", "").split("->")[0].split(",")
    if len(terms) != 2:
        return
    lengths = {
        letter: length
        for term, name in zip(terms, node.input, strict=True)
        for letter, length in zip(term, shapes[name], strict=True)
    }
    yield (node.input[0], node.input[1]), math.prod(lengths.values())


def _recurrent(node: onnx.NodeProto, shapes: Shapes) -> _Counted:
    """Each step of `[steps, samples, inputs]` takes all of W, for the inputs, and all of R, for the hidden states."""
    steps, samples, _ = shapes[node.input[0]]
    yield (node.input[0], node.input[1]), steps * samples * math.prod(shapes[node.input[1]])
    yield (node.output[0] or node.name, node.input[2]), steps * samples * math.prod(shapes[node.input[2]])


def _attention(node: onnx.NodeProto, shapes: Shapes) -> _Counted:
    """Scores of all queries and keys (the cached ones too), and their sums of values."""
    query, key, value = (shapes[name] for name in node.input[:3])
    given = _attributes(node)
    if len(query) == 4:
        samples, heads, queries, width = query
        keys, out = key[2], value[3]
    else:
        samples, queries, all_ = query
        heads = given["q_num_heads"]
        width, keys, out = all_ // heads, key[1], value[2] // given["kv_num_heads"]
    if len(node.input) > 4 and node.input[4]:
        keys += shapes[node.input[4]][2]
    yield (node.input[0], node.input[1]), samples * heads * queries * keys * width
    yield (node.output[0], node.input[2]), samples * heads * queries * keys * out


_RULES: Mapping[str, Callable[[onnx.NodeProto, Shapes], _Counted]] = {
    "Conv": _convolution,
    "ConvTranspose": _transposed_convolution,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "Einsum": _einsum,
    "LSTM": _recurrent,
    "GRU": _recurrent,
    "RNN": _recurrent,
    "Attention": _attention,
}

"""Weights that came quantized: constants of at most 16 bits, which stay as they are or become floats again.

A constant that QuantizeLinear rounds is a float weight to be planned, of the values that it is rounded to: so networks
come from training with quantization. Codes in the file stay codes, unless a request asks for floats in their place.
What a DequantizeLinear makes of them, or any other nodes, is computed by ONNX Runtime; a weight that is packed for
MatMulNBits is what the operator makes of an identity matrix. Operators that multiply codes with codes keep them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from network.onnx_graph import attributes, graphs, names_read, nodes
from network.runtime import runtime_errors, session_of

CODE_BITS = {
    **dict.fromkeys(("INT16", "UINT16"), 16),
    **dict.fromkeys(("INT8", "UINT8", "FLOAT8E4M3FN", "FLOAT8E4M3FNUZ", "FLOAT8E5M2", "FLOAT8E5M2FNUZ"), 8),
    **dict.fromkeys(("INT4", "UINT4", "FLOAT4E2M1"), 4),
    **dict.fromkeys(("INT2", "UINT2"), 2),
}
"""Bits of the types, by name, that weights have once they are quantized."""

_BITS = {TensorProto.DataType.Value(name): b for name, b in CODE_BITS.items() if name in TensorProto.DataType.keys()}  # noqa: SIM118
FEWEST_CODES = 64
"""What is smaller is a table of zero points, or of shapes."""

_RUNTIME = "com.microsoft"


@dataclass(frozen=True, slots=True)
class Codes:
    """A constant of codes."""

    name: str
    size_bytes: int


def stored_codes(graph: GraphProto) -> list[Codes]:
    """The constants of codes, in all graphs, in their order."""
    codes = []
    for inner in graphs(graph):
        codes += [Codes(tensor.name, _bytes(tensor)) for tensor in inner.initializer if _is_codes(tensor)]
        for node in inner.node:
            codes += [Codes(node.output[0], _bytes(tensor)) for tensor in _values(node) if _is_codes(tensor)]
    return codes


def with_floats(model: ModelProto, threads: int, *, codes: bool) -> ModelProto | None:
    """A copy of an admitted model with float constants in place of what its main graph makes of codes; None where it
    makes none.

    Args:
        model: not changed.
        threads: of ONNX Runtime.
        codes: of those in the file, too; else only of constants that are rounded to codes in the graph.

    Raises:
        ModelNotRunnable, ModelTooLarge: ONNX Runtime does not compute them.
    """
    if not _has_any(model.graph, codes):
        return None
    copy = ModelProto()
    copy.CopyFrom(model)
    if codes:
        _open_products(copy.graph)
    made = _made_of_codes(copy.graph, codes)
    if not made:
        return None
    arrays = {name: array for name, array in _computed(copy, made, threads).items() if _is_float(array)}
    kept = [node for node in copy.graph.node if not arrays.keys() & set(node.output)]
    del copy.graph.node[:]
    copy.graph.node.extend(kept)
    copy.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in arrays.items())
    return copy if arrays else None


def _is_codes(tensor: TensorProto) -> bool:
    return tensor.data_type in _BITS and math.prod(tensor.dims) >= FEWEST_CODES


def _bytes(tensor: TensorProto) -> int:
    elements: int = math.prod(tensor.dims)
    return -(-elements * _BITS[tensor.data_type] // 8)


def _values(node: NodeProto) -> Iterator[TensorProto]:
    return (attribute.t for attribute in node.attribute if node.op_type == "Constant" and attribute.name == "value")


def _is_float(array: NDArray[Any]) -> bool:
    return array.dtype.kind == "f"


def _has_any(graph: GraphProto, codes: bool) -> bool:
    rounds = any(node.op_type == "QuantizeLinear" for node in nodes(graph))
    return rounds or (codes and bool(stored_codes(graph)))


def _made_of_codes(graph: GraphProto, codes: bool) -> list[str]:
    """The constant values that nodes make of codes, and that what is not constant reads."""
    constant = {tensor.name for tensor in graph.initializer} - {value.name for value in graph.input}
    coded = {tensor.name for tensor in graph.initializer if codes and _is_codes(tensor)}
    read = {value.name for value in graph.output}
    made: list[str] = []
    for node in graph.node:
        inputs = [name for name in node.input if name]
        is_constant = node.op_type == "Constant" or (bool(inputs) and constant.issuperset(names_read(node)))
        if not is_constant:
            read.update(names_read(node))
            continue
        constant.update(node.output)
        rounds = node.op_type == "QuantizeLinear" or (codes and node.op_type == "DequantizeLinear")
        if rounds or coded.intersection(inputs) or (codes and any(map(_is_codes, _values(node)))):
            coded.update(node.output)
            made += [] if node.op_type == "Constant" else node.output[:1]
    return [name for name in made if name in read]


def _computed(model: ModelProto, names: Sequence[str], threads: int) -> dict[str, NDArray[Any]]:
    """These constant values, as ONNX Runtime computes them."""
    needed = set(names)
    kept: list[NodeProto] = []
    for node in reversed(model.graph.node):
        if needed.intersection(node.output):
            kept.append(node)
            needed.update(names_read(node))
    graph = helper.make_graph(
        kept[::-1],
        "constants",
        [],
        [onnx.ValueInfoProto(name=name) for name in names],
        [tensor for tensor in model.graph.initializer if tensor.name in needed],
    )
    part = helper.make_model(graph, opset_imports=list(model.opset_import), ir_version=model.ir_version)
    with runtime_errors("run"):
        results = session_of(part.SerializeToString(), threads, optimised=False).run(None, {})
    return {name: np.asarray(result) for name, result in zip(names, results, strict=True)}


def _open_products(graph: GraphProto) -> None:
    """MatMulNBits as a product with the weight, which is the operator's own of an identity matrix."""
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    taken = {name for inner in graphs(graph) for node in inner.node for name in (*node.input, *node.output)}
    opened: list[NodeProto] = []
    for node in graph.node:
        packed = [name for name in node.input[1:5] if name]
        if node.op_type == "MatMulNBits" and node.domain == _RUNTIME and tensors.keys() >= set(packed):
            opened += _opened(graph, node, tensors[node.input[2]].data_type, taken)
        else:
            opened.append(NodeProto.FromString(node.SerializeToString()))
    del graph.node[:]
    graph.node.extend(opened)


def _opened(graph: GraphProto, node: NodeProto, type_: int, taken: set[str]) -> list[NodeProto]:
    """One MatMulNBits of scales of `type_`, and the identity matrix among the initializers."""
    given = attributes(node)
    eye, weight, product = (_free(f"{node.output[0]}/{part}", taken) for part in ("eye", "weight", "product"))
    ones = np.eye(given["K"], dtype=helper.tensor_dtype_to_np_dtype(type_))
    graph.initializer.append(numpy_helper.from_array(ones, eye))
    exact = {name: given[name] for name in ("K", "N", "bits", "block_size")}
    bias = node.input[5] if len(node.input) > 5 else ""
    made = [
        helper.make_node("MatMulNBits", [eye, *node.input[1:5]], [weight], domain=_RUNTIME, **exact),
        helper.make_node("MatMul", [node.input[0], weight], [product if bias else node.output[0]], node.name),
    ]
    return [*made, helper.make_node("Add", [product, bias], list(node.output))] if bias else made


def _free(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    taken.add(name)
    return name

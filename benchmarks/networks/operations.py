"""Bit operations of a delivered file, counted from the shapes of a real run, beside those that its plan tells."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import onnx

from benchmarks.networks.entry import Network
from benchmarks.networks.running import feeds_of, groups_of, session_of

PASSING = frozenset({"Transpose", "Reshape", "Identity", "Cast", "Squeeze", "Unsqueeze", "Slice", "Split", "Flatten"})
"""Operators behind which a weight still is a weight."""
RECURRENT = frozenset({"LSTM", "GRU", "RNN"})


def wrong_rows(file: Network, delivered: bytes, plan: Mapping[str, Any]) -> list[str]:
    """The layers whose bit operations of one sample are not what a run has, one text for each.

    Layers in the bodies of If, Loop and Scan are not counted: their values cannot be outputs. Neither are plans whose
    layers read quantized activations.
    """
    model = onnx.load_model_from_string(delivered)
    weights = {row["weight"]: row for row in plan["layers"]}
    uses = {name: list(_uses(model.graph, name, len(row["shape"]))) for name, row in weights.items()}
    shapes = _shapes(file, model, {name for nodes in uses.values() for node, _ in nodes for name in _values(node)})
    texts = []
    for name, row in weights.items():
        counts = [_products(node, weight, shapes) for node, weight in uses[name]]
        if not counts or None in counts:
            continue
        counted = sum(count for count in counts if count is not None) * row["bits"] * row["input_bits"]
        if counted != row["bit_operations"]:
            texts.append(f"{name}: {row['bit_operations']:,} bit operations, counted {counted:,}")
    return texts


def _values(node: onnx.NodeProto) -> list[str]:
    return [name for name in (*node.input, *node.output) if name]


def _uses(graph: onnx.GraphProto, name: str, rank: int) -> Iterator[tuple[onnx.NodeProto, str]]:
    """The nodes that compute with a weight, and the name under which they read it.

    Gather picks whole matrices from a table of three axes or more; from a table of two it copies rows, which multiplies
    nothing.
    """
    for node in graph.node:
        if name in node.input:
            passes = node.op_type in PASSING or (node.op_type == "Gather" and rank > 2)
            if not passes:
                yield node, name
            elif name == node.input[0]:
                for output in node.output:
                    yield from _uses(graph, output, rank)


def _shapes(file: Network, model: onnx.ModelProto, names: set[str]) -> dict[str, tuple[int, ...]]:
    """Shapes of values in a run of the first sample; lengths of a batch of several are those of one sample."""
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    known = {value.name for value in probe.graph.output}
    made = {output for node in probe.graph.node for output in node.output}
    probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in sorted(names & made - known))
    session = session_of(probe.SerializeToString(), optimized=False)
    feeds = next(feeds_of(session, next(iter(groups_of(file.fresh).values())), file.batch_axes))
    outputs = [output.name for output in session.get_outputs()]
    shapes = {name: np.shape(value) for name, value in zip(outputs, session.run(outputs, feeds), strict=True)}
    shapes |= {name: np.shape(value) for name, value in feeds.items()}
    return shapes | {tensor.name: tuple(tensor.dims) for tensor in probe.graph.initializer}


def _products(node: onnx.NodeProto, weight: str, shapes: Mapping[str, tuple[int, ...]]) -> int | None:
    """Multiply-accumulates of a node with one of its weights; None: not known for this operator."""
    first, output = shapes[node.input[0]], shapes[node.output[0]] if node.output[0] else ()
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    if node.op_type in RECURRENT:
        if weight not in node.input[1:3]:
            return None
        return first[0] * first[1] * math.prod(shapes[weight])
    match node.op_type:
        case "Gather":
            return 0
        case "Conv":
            return math.prod(output) * math.prod(shapes[weight][1:])
        case "ConvTranspose":
            return math.prod(first) * math.prod(shapes[weight][1:])
        case "MatMul" | "FusedMatMul":
            return math.prod(output) * (first[-2] if attributes.get("transA") else first[-1])
        case "Gemm":
            return math.prod(output) * first[0 if attributes.get("transA") else 1]
        case "Einsum":
            return _einsum(attributes["equation"].decode(), [shapes[name] for name in node.input])
    return None


def _einsum(equation: str, shapes: list[tuple[int, ...]]) -> int | None:
    """The product of the lengths of all letters."""
    terms = equation.replace(" ", "").split("->")[0].split(",")
    if "." in equation or len(terms) != 2:
        return None
    letters = zip("".join(terms), [size for shape in shapes for size in shape], strict=True)
    lengths = dict(letters)
    return math.prod(lengths.values())

"""Small networks with values that no inference knows: behind a choice, and in the bodies of If, Loop and Scan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

node = helper.make_node
FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
W = np.random.default_rng(0).normal(size=(4, 4)).astype(np.float32)
X = np.random.default_rng(1).normal(size=(1, 3, 4)).astype(np.float32)


def value(name: str, shape: Sequence[int | str | None] | None, kind: int = FLOAT) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def model_of(
    nodes: list[NodeProto],
    outputs: Sequence[str],
    inputs: Sequence[ValueInfoProto] = (),
    weights: Mapping[str, NDArray[Any]] | None = None,
    opset: int = 21,
) -> ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [value("x", ["N", 3, 4]), *inputs],
        [ValueInfoProto(name=name) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in ({"w": W} | dict(weights or {})).items()],
    )
    for output in graph.output:
        output.type.tensor_type.elem_type = FLOAT
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def body(
    nodes: list[NodeProto], inputs: Sequence[ValueInfoProto], outputs: Sequence[ValueInfoProto], name: str = "body"
) -> GraphProto:
    return helper.make_graph(nodes, name, list(inputs), list(outputs))


POSITIVE = [
    node("Greater", ["x", "zero"], ["yes"]),
    node("NonZero", ["yes"], ["places"]),
    node("Transpose", ["places"], ["rows"], perm=[1, 0]),
    node("GatherND", ["x", "rows"], ["kept"]),
    node("Unsqueeze", ["kept", "one"], ["column"]),
    node("MatMul", ["column", "wide"], ["y"]),
]
"""A layer behind a choice: its rows are as many as there are positive numbers, which no inference knows."""
POSITIVE_WEIGHTS = {"zero": np.float32(0), "one": np.array([1]), "wide": np.ones((1, 5), np.float32)}


GROWS = body(
    [
        node("Concat", ["rows", "x"], ["longer"], axis=1),
        node("MatMul", ["longer", "w"], ["product"]),
        node("Identity", ["go"], ["go_on"]),
    ],
    [value("i", [], INT64), value("go", [], BOOL), value("rows", None)],
    [value("go_on", [], BOOL), value("longer", None), value("product", None)],
)
"""Of a Loop: 3 rows more each time, and a product with a weight."""


def loop(times: str = "times", outputs: Sequence[str] = ("all", "products")) -> NodeProto:
    # the products are not stacked where their lengths differ: the test takes one time, or none
    return node("Loop", [times, "go_at_first", "x"], list(outputs), body=GROWS)


COUNTED = {"go_at_first": np.array(True)}


def branches(inner: str = "x") -> NodeProto:
    then = body([node("Concat", [inner, inner], ["twice"], axis=1)], [], [value("twice", None)], "then")
    other = body([node("Neg", [inner], ["minus"]), node("Abs", ["minus"], ["abs"])], [], [value("abs", None)], "else")
    return node("If", ["yes"], ["either"], then_branch=then, else_branch=other)

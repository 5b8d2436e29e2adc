"""Whole jobs on weights in bodies and tied ones: planned, stored in fewer bits, and told where no sample shows them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import pipeline

RNG = np.random.default_rng(3)
node = helper.make_node
SMALL = {"budget": {"max_drop": 0.05}, "weights": {"bits": [4, 8]}}


def floats(*shape: int) -> np.ndarray[Any, Any]:
    return (RNG.normal(size=shape) / np.sqrt(shape[0])).astype(np.float32)


def model(
    nodes: list[onnx.NodeProto], inputs: dict[str, Any], output: str, shape: tuple[int, ...], **constants: Any
) -> bytes:
    graph = helper.make_graph(
        nodes,
        "g",
        [
            helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), ["N", *a.shape[1:]])
            for n, a in inputs.items()
        ],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["N", *shape])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(made.SerializeToString())


def test_branches_are_planned_and_one_that_no_sample_takes_keeps_its_width() -> None:
    def branch(name: str) -> onnx.GraphProto:
        nodes = [node("MatMul", ["h", f"B{name}"], [name])]
        weights = [numpy_helper.from_array(floats(16, 8), f"B{name}")]
        return helper.make_graph(
            nodes, name, [], [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, 8])], weights
        )

    nodes = [
        node("MatMul", ["x", "W"], ["h"]),
        node("ReduceMax", ["rate"], ["most"], keepdims=0),
        node("Equal", ["most", "sixteen"], ["c"]),
        node("If", ["c"], ["y"], then_branch=branch("taken"), else_branch=branch("never")),
    ]
    inputs = {"x": RNG.normal(size=(80, 12)).astype(np.float32), "rate": np.full((80, 1), 16)}
    result = pipeline.plan(model(nodes, inputs, "y", (8,), W=floats(12, 16), sixteen=np.int64(16)), inputs, SMALL)
    assert result.plan is not None
    bits = {layer["name"]: layer["bits"] for layer in result.plan["layers"]}
    assert bits["Bnever"] == 8
    assert result.plan["unreached"] == ["Bnever"]
    assert "No sample reached the weights Bnever" in result.certificate["statement"]
    assert result.plan["stays_float"]["bytes"] == 0


def test_a_tied_head_is_stored_once() -> None:
    nodes = [
        node("Gather", ["E", "ids"], ["e"]),
        node("MatMul", ["e", "W"], ["h"]),
        node("Transpose", ["E"], ["T"], perm=[1, 0]),
        node("MatMul", ["h", "T"], ["logits"]),
    ]
    inputs = {"ids": RNG.integers(0, 64, (80, 5))}
    uploaded = model(nodes, inputs, "logits", (5, 64), E=floats(64, 16), W=floats(16, 16))
    result = pipeline.plan(uploaded, inputs, SMALL)
    assert result.plan is not None
    assert [len(layer["nodes"]) for layer in result.plan["layers"]] == [2, 1]
    stored = sum(onnx.numpy_helper.to_array(t).nbytes for t in onnx.load_from_string(result.model).graph.initializer)
    assert stored < 64 * 16 + 16 * 16 + 600

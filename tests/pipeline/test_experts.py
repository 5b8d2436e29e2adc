"""Mixtures of experts through a whole job: every expert is planned, and those that no sample reaches are told."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import pipeline

SAMPLES, INPUTS, HIDDEN, EXPERTS, CLASSES = 120, 16, 24, 4, 5
REQUEST = {"budget": {"max_drop": 0.1}, "weights": {"bits": [4, 8]}}
node = helper.make_node

ROUTED = [
    node("MatMul", ["x", "router"], ["r0"]),
    node("Add", ["r0", "preference"], ["r"]),
    node("ArgMax", ["r"], ["e"], axis=1, keepdims=0),
    node("Gather", ["up", "e"], ["u"]),
    node("Unsqueeze", ["x", "one"], ["xu"]),
    node("MatMul", ["xu", "u"], ["h"]),
    node("Relu", ["h"], ["a"]),
    node("Gather", ["down", "e"], ["d"]),
    node("MatMul", ["a", "d"], ["o"]),
    node("Squeeze", ["o", "one"], ["s"]),
    node("MatMul", ["s", "last"], ["y"]),
]
DENSE = [
    node("MatMul", ["x", "router"], ["r0"]),
    node("Add", ["r0", "preference"], ["r"]),
    node("Softmax", ["r"], ["p"], axis=1),
    node("Einsum", ["x", "p"], ["xe"], equation="nk,ne->nek"),
    node("Einsum", ["xe", "up"], ["h"], equation="nek,ekm->nem"),
    node("Relu", ["h"], ["a"]),
    node("Einsum", ["a", "down"], ["o"], equation="nem,emk->nek"),
    node("ReduceSum", ["o", "one"], ["s"], keepdims=0),
    node("MatMul", ["s", "last"], ["y"]),
]


def experts(nodes: list[onnx.NodeProto]) -> bytes:
    """The last expert is never chosen; one is a thousand times as large as another."""
    rng = np.random.default_rng(6)
    sizes = np.array([1, 0.03, 30, 1], np.float32).reshape(-1, 1, 1)
    weights = {
        "router": rng.normal(size=(INPUTS, EXPERTS)),
        "preference": np.array([0, 0, 0, -1e4]),
        "up": rng.normal(size=(EXPERTS, INPUTS, HIDDEN)) * sizes / 4,
        "down": rng.normal(size=(EXPERTS, HIDDEN, INPUTS)) / sizes / 5,
        "last": rng.normal(size=(INPUTS, CLASSES)) / 4,
    }
    tensors = [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()]
    tensors.append(numpy_helper.from_array(np.array([1]), "one"))
    graph = helper.make_graph(
        nodes,
        "experts",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", INPUTS])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", CLASSES])],
        tensors,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


def run(model: bytes, x: np.ndarray) -> np.ndarray:
    return np.asarray(onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0])


@pytest.mark.parametrize("nodes", [ROUTED, DENSE], ids=["routed", "dense"])
def test_every_expert_is_planned(nodes: list[onnx.NodeProto]) -> None:
    model = experts(nodes)
    x = np.random.default_rng(7).normal(size=(SAMPLES, INPUTS)).astype(np.float32)
    result = pipeline.plan(model, {"x": x}, REQUEST)
    rows: dict[str, Any] = {row["name"]: row for row in result.plan["layers"]}
    assert rows.keys() == {"router", "up", "down", "last"}
    for name in ("up", "down"):
        assert rows[name]["bits"] in (4, 8)
        assert "gptq" in rows[name]["rounding"]
        assert "1 of 4 matrices were reached by no calibration sample" in rows[name]["note"]
    assert rows["last"]["note"] is None
    assert len(result.model) == result.plan["size_bytes"]
    assert len(result.model) < 0.45 * len(model)
    fresh = np.random.default_rng(8).normal(size=(SAMPLES, INPUTS)).astype(np.float32)
    expected, given = run(model, fresh), run(result.model, fresh)
    assert np.linalg.norm(given - expected) < 0.2 * np.linalg.norm(expected)


def test_a_plan_for_onnx_runtime_leaves_stacks_out(job) -> None:
    formats = dict.fromkeys(("router", "up", "down", "last"), "int8/channel")
    plan = {"version": 1, "layers": [{"name": name, "format": own} for name, own in formats.items()], "activations": []}
    x = np.random.default_rng(7).normal(size=(SAMPLES, INPUTS)).astype(np.float32)
    delivery = job(experts(ROUTED), {"x": x}, {"budget": {"max_drop": 0.99}, "plan": plan}).run()
    document = json.loads(delivery.artifacts["ort"])
    assert document["tensor_quant_overrides"].keys() == {"router", "last"}
    notes = {note["tensor"]: note["note"] for note in document["notes"]}
    assert "no scales for each matrix of a stack" in notes["up"]

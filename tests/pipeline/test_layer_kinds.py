"""Whole jobs on networks of the kinds of layers that image classifiers lack, with random weights and no labels."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from quantization.export.audit import audit

RNG = np.random.default_rng(0)
STEPS, HIDDEN = 12, 16


def draw(*shape: int) -> np.ndarray:
    return (RNG.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)


def model_of(nodes: list[onnx.NodeProto], weights: dict[str, np.ndarray], name: str, sample: np.ndarray) -> bytes:
    kind = helper.np_dtype_to_tensor_dtype(sample.dtype)
    graph = helper.make_graph(
        nodes,
        "kinds",
        [helper.make_tensor_value_info(name, kind, ["N", *sample.shape[1:]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 10])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


def transposed() -> tuple[bytes, dict[str, np.ndarray]]:
    """Tokens, their embeddings, transposed convolutions over one axis in groups and over three axes."""
    tokens = RNG.integers(0, 60, (300, 8))
    nodes = [
        helper.make_node("Gather", ["table", "tokens"], ["e"]),
        helper.make_node("Transpose", ["e"], ["t"], perm=[0, 2, 1]),
        helper.make_node("ConvTranspose", ["t", "up1.weight", "up1.bias"], ["u"], group=4, strides=[2], pads=[0, 1]),
        helper.make_node("Tanh", ["u"], ["v"]),
        helper.make_node("Reshape", ["v", "volume"], ["w"]),
        helper.make_node("ConvTranspose", ["w", "up3.weight"], ["z"], strides=[1, 2, 1]),
        helper.make_node("Tanh", ["z"], ["s"]),
        helper.make_node("ReduceMean", ["s"], ["m"], axes=[2, 3], keepdims=0),
        helper.make_node("Flatten", ["m"], ["f"]),
        helper.make_node("Gemm", ["f", "fc.weight"], ["y"], transB=1),
    ]
    weights = {
        "table": 2 * draw(60, 16),
        "up1.weight": draw(16, 6, 3),
        "up1.bias": draw(24),
        "volume": np.array([-1, 12, 2, 4, 4]),
        "up3.weight": draw(12, 9, 2, 2, 2),
        "fc.weight": draw(10, 45),
    }
    return model_of(nodes, weights, "tokens", tokens), {"tokens": tokens}


def listening() -> tuple[bytes, dict[str, np.ndarray]]:
    """As networks for speech are: a convolution over time, a GRU and an LSTM, a linear layer on the last output."""
    sound = RNG.standard_normal((300, 4, STEPS)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["sound", "conv.weight", "conv.bias"], ["c"], pads=[1, 1]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Transpose", ["r"], ["t"], perm=[2, 0, 1]),
        helper.make_node("GRU", ["t", "gru.W", "gru.R", "gru.B"], ["g4"], "gru", hidden_size=HIDDEN),
        helper.make_node("Squeeze", ["g4", "one"], ["g"]),
        helper.make_node(
            "LSTM", ["g", "lstm.W", "lstm.R"], ["l"], "lstm", hidden_size=HIDDEN, direction="bidirectional"
        ),
        helper.make_node("Transpose", ["l"], ["b"], perm=[2, 0, 1, 3]),
        helper.make_node("Flatten", ["b"], ["f"]),
        helper.make_node("Gemm", ["f", "fc.weight", "fc.bias"], ["y"], transB=1),
    ]
    weights: dict[str, Any] = {
        "conv.weight": draw(24, 4, 3),
        "conv.bias": draw(24),
        "gru.W": 4 * draw(1, 3 * HIDDEN, 24),
        "gru.R": 4 * draw(1, 3 * HIDDEN, HIDDEN),
        "gru.B": draw(1, 6 * HIDDEN),
        "one": np.array([1]),
        "lstm.W": 4 * draw(2, 4 * HIDDEN, HIDDEN),
        "lstm.R": 4 * draw(2, 4 * HIDDEN, HIDDEN),
        "fc.weight": draw(10, STEPS * 2 * HIDDEN),
        "fc.bias": draw(10),
    }
    return model_of(nodes, weights, "sound", sound), {"sound": sound}


@pytest.mark.parametrize("make", [transposed, listening])
def test_every_kind_of_layer_goes_through_the_whole_job(job, make):
    model, samples = make()
    delivery = job(model, samples, {"budget": {"metric": "cosine", "max_drop": 0.02}}).run()
    plan, quantized = json.loads(delivery.artifacts["plan"]), delivery.artifacts["model"]
    assert delivery.outcome == "met"
    assert json.loads(delivery.artifacts["sensitivity"])["unavailable"] == {}
    assert max(layer["bits"] for layer in plan["layers"]) < 8
    assert plan["size_bytes"] == len(quantized) < len(model) / 2
    planned = {layer["weight"]: layer["bits"] for layer in plan["layers"]}
    floats = {t.name for t in onnx.ModelProto.FromString(model).graph.initializer if len(t.dims) > 1} - {"gru.B"}
    assert planned.keys() == floats
    assert {weight.name: weight.bits for weight in audit(quantized).weights} == planned
    (expected,), (found,) = (
        onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"]).run(None, samples)
        for file in (model, quantized)
    )
    expected, found = expected.reshape(len(expected), -1), found.reshape(len(found), -1)
    cosine = (expected * found).sum(1) / np.linalg.norm(expected, axis=1) / np.linalg.norm(found, axis=1)
    assert cosine.mean() > 0.97


def test_a_recurrent_layer_behind_8_bit_activations(job):
    """Its weight of the inputs computes with what it reads, the one of the states with floats."""
    model, samples = listening()
    request = {
        "budget": {"metric": "cosine", "max_drop": 0.03},
        "objective": "bit_operations",
        "activations": {"bits": [8]},
    }
    delivery = job(model, samples, request).run()
    plan = json.loads(delivery.artifacts["plan"])
    assert plan["certificate"]["met"]
    bits = {layer["name"]: layer["bits"] for layer in plan["layers"]}
    macs_and_read = {
        "conv": (STEPS * 24 * 4 * 3, 8),
        "gru.W": (STEPS * 3 * HIDDEN * 24, 8),
        "gru.R": (STEPS * 3 * HIDDEN * HIDDEN, 32),
        "lstm.W": (STEPS * 2 * 4 * HIDDEN * HIDDEN, 32),
        "lstm.R": (STEPS * 2 * 4 * HIDDEN * HIDDEN, 32),
        "fc": (10 * STEPS * 2 * HIDDEN, 8),
    }
    assert plan["bit_operations"] == sum(bits[name] * macs * read for name, (macs, read) in macs_and_read.items())

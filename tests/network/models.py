"""Small models for admission, and what it says when it refuses one."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from network.admission import AdmissionLimits, admit
from network.errors import NetworkError

LIMITS = AdmissionLimits(max_model_bytes=1 << 20, max_memory_bytes=1 << 20, max_nodes=200)


def value(name: str, shape: list[int | str | None], kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def build(
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    weights: dict[str, np.ndarray] | None = None,
    *,
    functions: list[onnx.FunctionProto] | None = None,
    domains: dict[str, int] | None = None,
) -> ModelProto:
    graph = helper.make_graph(
        nodes, "g", inputs, outputs, [numpy_helper.from_array(a, n) for n, a in (weights or {}).items()]
    )
    opsets = [helper.make_opsetid(domain, version) for domain, version in {"": 18, **(domains or {})}.items()]
    return helper.make_model(graph, opset_imports=opsets, functions=functions or [], ir_version=10)


def linear(**weights: np.ndarray) -> ModelProto:
    """x [N, 4] -> Relu(x W + b) [N, 3]."""
    default = {"W": np.eye(4, 3, dtype=np.float32), "b": np.zeros(3, np.float32)}
    nodes = [
        helper.make_node("MatMul", ["x", "W"], ["h"], name="mul"),
        helper.make_node("Add", ["h", "b"], ["s"], name="add"),
        helper.make_node("Relu", ["s"], ["y"], name="relu"),
    ]
    return build(nodes, [value("x", ["N", 4])], [value("y", ["N", 3])], default | weights)


def refusal(model: ModelProto | bytes, error: type[NetworkError], limits: AdmissionLimits = LIMITS) -> str:
    data = model if isinstance(model, bytes) else model.SerializeToString()
    with pytest.raises(error) as caught:
        admit(data, limits)
    assert caught.type is error
    return str(caught.value)

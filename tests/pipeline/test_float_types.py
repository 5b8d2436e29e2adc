"""Whole jobs on networks in float16, bfloat16 and float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

import pipeline
from network.errors import ModelNotTaken
from tests.network.float_types import converted, with_casts

RNG = np.random.default_rng(5)
SMALL = {"budget": {"max_drop": 0.05}, "weights": {"bits": [4, 8]}}
KEPT = {**SMALL, "layers": {"w1": {"keep": True}}}
node = helper.make_node


def floats(*shape: int) -> np.ndarray[Any, Any]:
    return (RNG.normal(size=shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)


def network() -> ModelProto:
    nodes = [
        node("Conv", ["x", "w1", "b1"], ["c"], pads=[1, 1, 1, 1]),
        node("Relu", ["c"], ["r"]),
        node("GlobalAveragePool", ["r"], ["p"]),
        node("Flatten", ["p"], ["f"]),
        node("Gemm", ["f", "w2", "b2"], ["y"], transB=1),
    ]
    weights = {"w1": floats(64, 3, 3, 3), "b1": floats(64, 1)[:, 0], "w2": floats(10, 64), "b2": floats(10, 1)[:, 0]}
    return _model(nodes, ["N", 3, 6, 6], weights)


def dense() -> ModelProto:
    nodes = [
        node("Gemm", ["x", "w1", "b1"], ["h"], transB=1),
        node("Relu", ["h"], ["r"]),
        node("MatMul", ["r", "w2"], ["y"]),
    ]
    weights = {"w1": floats(64, 24), "b1": floats(64, 1)[:, 0], "w2": floats(64, 10)}
    return _model(nodes, ["N", 24], weights)


def _model(nodes: list[Any], shape: list[Any], weights: dict[str, Any]) -> ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 10])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def samples(model: ModelProto) -> dict[str, Any]:
    spec = model.graph.input[0].type.tensor_type
    shape = [dim.dim_value for dim in spec.shape.dim][1:]
    return {"x": RNG.normal(size=(80, *shape)).astype(helper.tensor_dtype_to_np_dtype(spec.elem_type))}


def interface(model: bytes) -> list[tuple[str, str, Any]]:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return [(value.name, value.type, value.shape) for value in (*session.get_inputs(), *session.get_outputs())]


def planned(model: ModelProto, request: dict[str, Any]) -> tuple[bytes, Any]:
    uploaded = model.SerializeToString()
    result = pipeline.plan(uploaded, samples(model), request)
    assert result.plan is not None
    assert interface(result.model) == interface(uploaded)
    assert result.plan["float_size_bytes"] == len(uploaded)
    assert result.plan["size_bytes"] == len(result.model)
    return uploaded, result


@pytest.mark.parametrize("whole", [True, False], ids=["all", "within float32"])
def test_float16(whole: bool) -> None:
    uploaded, result = planned(converted(network(), TensorProto.FLOAT16, interface=whole), SMALL)
    assert result.outcome == "met"
    assert {layer["bits"] for layer in result.plan["layers"]} <= {4, 8}
    assert len(result.model) < 0.9 * len(uploaded)


def test_a_weight_of_16_bits_that_is_kept_has_16_bits() -> None:
    _, result = planned(converted(network(), TensorProto.FLOAT16), KEPT)
    kept = next(layer for layer in result.plan["layers"] if layer["name"] == "w1")
    assert (kept["format"], kept["bits"]) == ("float16", 16)
    assert 2 * kept["weights"] <= kept["bytes"] < 2 * kept["weights"] + 100
    assert result.plan["stays_float"]["tensors"][0] == {
        "name": "w1",
        "bytes": 2 * kept["weights"],
        "reason": "kept as requested",
    }


def test_quantized_activations_of_a_network_in_float16() -> None:
    request = {**SMALL, "budget": {"max_drop": 0.2}, "activations": {"bits": [8]}}
    _, result = planned(converted(network(), TensorProto.FLOAT16), request)
    assert {row["format"] for row in result.plan["activations"]} == {"uint8/tensor"}
    assert result.outcome == "met"


def test_float64() -> None:
    uploaded, result = planned(converted(dense(), TensorProto.DOUBLE), SMALL)
    assert result.outcome == "met"
    assert len(result.model) < 0.3 * len(uploaded)


@pytest.mark.parametrize("type_", [TensorProto.FLOAT16, TensorProto.BFLOAT16])
def test_weights_that_are_stored_in_16_bits_alone(type_: int) -> None:
    request = {**SMALL, "layers": {"w1": {"keep": True}}}
    model = with_casts(dense(), type_)
    uploaded = model.SerializeToString()
    result = pipeline.plan(uploaded, samples(model), SMALL)
    assert result.outcome == "met"
    assert len(result.model) < 0.9 * len(uploaded)
    names = [layer["name"] for layer in result.plan["layers"]]
    kept = pipeline.plan(uploaded, samples(model), {**request, "layers": {name: {"keep": True} for name in names}})
    assert {layer["bits"] for layer in kept.plan["layers"]} == {16}
    assert len(kept.model) < len(uploaded) + 1000


def test_an_interface_of_bfloat16_is_refused_for_what_it_is() -> None:
    model = converted(dense(), TensorProto.BFLOAT16)
    with pytest.raises(ModelNotTaken, match=r"input 'x' has elements of type bfloat16; expected float16, float32"):
        pipeline.plan(model.SerializeToString(), {"x": np.zeros((80, 24), np.float32)}, SMALL)

"""Whole jobs on networks whose samples are not rows of a batch: time first, states, scalars, several lengths."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import pipeline
from network.errors import SamplesMixed

RNG = np.random.default_rng(11)
SMALL = {"budget": {"max_drop": 0.05}, "weights": {"bits": [4, 8]}}
node = helper.make_node
WIDTH, CLASSES = 8, 20


def floats(*shape: int) -> np.ndarray[Any, Any]:
    return RNG.normal(size=shape).astype(np.float32)


def weight(*shape: int) -> np.ndarray[Any, Any]:
    return floats(*shape) / np.float32(np.sqrt(shape[-2]))


def made(nodes: list[Any], inputs: dict[str, Any], outputs: dict[str, Any], **constants: Any) -> bytes:
    values = [
        [
            helper.make_tensor_value_info(name, TensorProto.INT64 if name == "ids" else TensorProto.FLOAT, shape)
            for name, shape in of.items()
        ]
        for of in (inputs, outputs)
    ]
    tensors = [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "g", *values, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


RECURRENT = [
    node("LSTM", ["x", "W", "R", "", "", "h0", "c0"], ["all", "hn", "cn"], hidden_size=WIDTH),
    node("Squeeze", ["hn", "zero"], ["h"]),
    node("MatMul", ["h", "V"], ["y"]),
]
CELL = {"W": weight(1, 4 * WIDTH, 3), "R": weight(1, 4 * WIDTH, WIDTH), "V": weight(WIDTH, 4), "zero": np.array([0])}


def test_time_first_with_states() -> None:
    inputs = {"x": ["T", "batch", 3], "h0": [1, "batch", WIDTH], "c0": [1, "batch", WIDTH]}
    outputs = {"y": ["batch", 4], "hn": [1, "batch", WIDTH], "cn": [1, "batch", WIDTH]}
    data = {"x": floats(80, 6, 3), "h0": floats(80, 1, WIDTH), "c0": floats(80, 1, WIDTH)}
    result = pipeline.plan(made(RECURRENT, inputs, outputs, **CELL), data, SMALL)
    assert result.outcome == "met"
    delivered = onnxruntime.InferenceSession(result.model, providers=["CPUExecutionProvider"])
    assert [value.shape for value in delivered.get_inputs()] == list(inputs.values())
    call = {name: np.moveaxis(array[:5], 0, 1) for name, array in data.items()}
    assert [array.shape for array in delivered.run(None, call)] == [(5, 4), (1, 5, WIDTH), (1, 5, WIDTH)]


def test_each_sample_a_call() -> None:
    inputs = {"x": ["T", 1, 3], "h0": [1, 1, WIDTH], "c0": [1, 1, WIDTH]}
    data = {"x": floats(60, 6, 1, 3), "h0": floats(60, 1, 1, WIDTH), "c0": floats(60, 1, 1, WIDTH)}
    assert pipeline.plan(made(RECURRENT, inputs, {"y": [1, 4]}, **CELL), data, SMALL).outcome == "met"


def test_classes_before_the_samples() -> None:
    nodes = [node("MatMul", ["x", "V"], ["scores"]), node("Transpose", ["scores"], ["y"], perm=[1, 0])]
    x, matrix = floats(200, WIDTH), weight(WIDTH, 4)
    data = {"x": x, "labels": np.argmax(x @ matrix, axis=1)}
    result = pipeline.plan(made(nodes, {"x": ["N", WIDTH]}, {"y": [4, "N"]}, V=matrix), data, SMALL)
    assert [(claim["metric"], claim["float_value"]) for claim in result.certificate["claims"]] == [("top1", 1.0)]


def test_a_scalar_for_each_call() -> None:
    nodes = [node("MatMul", ["x", "U"], ["h"]), node("Mul", ["h", "speed"], ["s"]), node("MatMul", ["s", "V"], ["y"])]
    data = {"x": floats(60, 6), "speed": np.repeat(np.float32([1, 2]), 30)}
    model = made(nodes, {"x": ["N", 6], "speed": []}, {"y": ["N", 4]}, U=weight(6, WIDTH), V=weight(WIDTH, 4))
    assert pipeline.plan(model, data, SMALL).outcome == "met"


def test_a_batch_that_mixes_is_refused() -> None:
    nodes = [
        node("MatMul", ["x", "U"], ["h"]),
        node("Softmax", ["h"], ["s"], axis=0),
        node("MatMul", ["s", "V"], ["y"]),
    ]
    model = made(nodes, {"x": ["N", 6]}, {"y": ["N", 4]}, U=weight(6, WIDTH), V=weight(WIDTH, 4))
    with pytest.raises(SamplesMixed):
        pipeline.plan(model, {"x": floats(60, 6)}, SMALL)
    alone = {**SMALL, "inputs": {"x": {"batch_axis": None}}}
    assert pipeline.plan(model, {"x": floats(60, 1, 6)}, alone).outcome == "met"


def decoder() -> bytes:
    nodes = [
        node("Gather", ["E", "ids"], ["e"]),
        *(node("MatMul", ["e", f"W{part}"], [part]) for part in "qkv"),
        node("Concat", ["past_k", "k"], ["present_k"], axis=1),
        node("Concat", ["past_v", "v"], ["present_v"], axis=1),
        node("Transpose", ["present_k"], ["kt"], perm=[0, 2, 1]),
        node("MatMul", ["q", "kt"], ["s"]),
        node("Softmax", ["s"], ["p"], axis=-1),
        node("MatMul", ["p", "present_v"], ["c"]),
        node("Add", ["c", "e"], ["h"]),
        node("Transpose", ["E"], ["T"], perm=[1, 0]),
        node("MatMul", ["h", "T"], ["logits"]),
    ]
    past = ["batch", "past", WIDTH]
    present = ["batch", "all", WIDTH]
    return made(
        nodes,
        {"ids": ["batch", "tokens"], "past_k": past, "past_v": past},
        {"logits": ["batch", "tokens", CLASSES], "present_k": present, "present_v": present},
        E=floats(CLASSES, WIDTH),
        **{f"W{part}": weight(WIDTH, WIDTH) for part in "qkv"},
    )


def group(samples: int, tokens: int, past: int) -> dict[str, Any]:
    return {
        "ids": RNG.integers(0, CLASSES, (samples, tokens)),
        "past_k": floats(samples, past, WIDTH),
        "past_v": floats(samples, past, WIDTH),
    }


def test_a_decoder_is_analysed_on_prompts_and_steps_and_decodes() -> None:
    groups = {"prompt": group(50, 5, 0), "step": group(50, 1, 7)}
    data = {f"{name}/{own}": array for name, arrays in groups.items() for own, array in arrays.items()}
    result = pipeline.plan(decoder(), data, SMALL)
    assert result.plan is not None
    assert {output["name"] for output in result.plan["outputs"]} == {"logits", "present_k", "present_v"}
    assert {name for claim in result.certificate["claims"] for name in claim["outputs"]} == {
        "logits",
        "present_k",
        "present_v",
    }
    session = onnxruntime.InferenceSession(result.model, providers=["CPUExecutionProvider"])
    ids = RNG.integers(0, CLASSES, (2, 4))
    empty = {"past_k": floats(2, 0, WIDTH), "past_v": floats(2, 0, WIDTH)}
    at_once = session.run(None, {"ids": ids, **empty})
    cache = empty
    for step in range(4):
        logits, *presents = session.run(None, {"ids": ids[:, step : step + 1], **cache})
        cache = dict(zip(("past_k", "past_v"), presents, strict=True))
    for once, stepwise in zip(at_once[1:], presents, strict=True):
        np.testing.assert_allclose(once, stepwise, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(at_once[0][:, -1:], logits, rtol=1e-4, atol=1e-4)

"""Whole jobs on tables of positions and biases: stored in fewer bits, and told where no sample reaches them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

import pipeline

RNG = np.random.default_rng(5)
node = helper.make_node
REQUEST = {"budget": {"max_drop": 0.05}, "weights": {"bits": [4, 8]}}
WIDTH, HEADS, WORDS = 32, 2, 50


def floats(*shape: int, size: float = 1.0) -> np.ndarray[Any, Any]:
    return (size * RNG.normal(size=shape)).astype(np.float32)


def model(
    nodes: list[onnx.NodeProto], inputs: dict[str, tuple[int, list[Any]]], output: list[Any], **constants: Any
) -> bytes:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in inputs.items()],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, output)],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(made.SerializeToString())


def attention(bias: str = "") -> list[onnx.NodeProto]:
    """`h` to `y`, with one head; `bias` is added to the scores."""
    return [
        node("MatMul", ["h", "Wq"], ["q"]),
        node("MatMul", ["h", "Wk"], ["k"]),
        node("Transpose", ["k"], ["kt"], perm=[0, 2, 1]),
        node("MatMul", ["q", "kt"], ["s"]),
        *([node("Add", ["s", bias], ["sb"])] if bias else []),
        node("Softmax", ["sb" if bias else "s"], ["p"], axis=-1),
        node("MatMul", ["p", "h"], ["o"]),
        node("MatMul", ["o", "Wo"], ["y"]),
    ]


def matrices() -> dict[str, Any]:
    return {name: floats(WIDTH, WIDTH, size=WIDTH**-0.5) for name in ("Wq", "Wk", "Wo")}


def row(result: pipeline.JobResult, name: str) -> dict[str, Any]:
    assert result.plan is not None
    return next(layer for layer in result.plan["layers"] if layer["name"] == name)


def outputs(data: bytes, **feeds: Any) -> np.ndarray[Any, Any]:
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, feeds)[0])


def test_learned_positions_of_patches_are_planned() -> None:
    nodes = [
        node("Conv", ["x", "patch"], ["c"], strides=[4, 4]),
        node("Reshape", ["c", "shape"], ["f"]),
        node("Transpose", ["f"], ["t"], perm=[0, 2, 1]),
        node("Add", ["t", "positions"], ["h"]),
        *attention(),
    ]
    uploaded = model(
        nodes,
        {"x": (TensorProto.FLOAT, ["N", 3, 28, 28])},
        ["N", 49, WIDTH],
        patch=floats(WIDTH, 3, 4, 4, size=0.2),
        shape=np.array([0, WIDTH, 49]),
        positions=floats(1, 49, WIDTH),
        **matrices(),
    )
    result = pipeline.plan(uploaded, {"x": floats(60, 3, 28, 28)}, REQUEST)
    positions = row(result, "positions")
    assert result.outcome == "met"
    assert (positions["op_type"], positions["bit_operations"]) == ("Add", 0)
    assert positions["bits"] < 32
    assert positions["rounding"].startswith("nearest")
    assert result.plan["stays_float"] == {"bytes": 0, "share": 0.0, "tensors": []}
    assert len(result.model) < len(uploaded) / 3
    # what was delivered can be applied again
    again = pipeline.plan(uploaded, {"x": floats(60, 3, 28, 28)}, {"plan": result.plan, "budget": {"max_drop": 0.05}})
    assert row(again, "positions")["format"] == positions["format"]


def test_a_latency_table_needs_no_rows_of_tables() -> None:
    nodes = [node("MatMul", ["x", "W"], ["m"]), node("Add", ["m", "table"], ["y"])]
    constants = {"W": floats(WIDTH, WIDTH), "table": floats(1, 40, WIDTH)}
    uploaded = model(nodes, {"x": (TensorProto.FLOAT, ["N", 40, WIDTH])}, ["N", 40, WIDTH], **constants)
    given = {"base_ms": 1.0, "W": {"int4/channel": 1.0, "int8/channel": 2.0}}
    request = {"budget": {"max_drop": 0.2}, "weights": {"bits": [4, 8]}, "objective": "latency"}
    result = pipeline.plan(uploaded, {"x": floats(60, 40, WIDTH)}, request | {"latency_table": given})
    assert row(result, "table")["latency_ms"] == 0
    assert result.plan["latency"]["predicted_ms"] == 2.0


def test_positions_that_no_sample_reaches_are_told_and_stay_what_they_are() -> None:
    nodes = [
        node("Gather", ["words", "ids"], ["w"]),
        node("Shape", ["ids"], ["length"], start=1, end=2),
        node("Slice", ["positions", "zero", "length", "axes"], ["own"]),
        node("Add", ["w", "own"], ["h"]),
        *attention(),
    ]
    positions = floats(1, 128, WIDTH)
    positions[0, 100:] *= 100  # nothing of these may come into the scales of the others, and the other way round
    uploaded = model(
        nodes,
        {"ids": (TensorProto.INT64, ["N", "L"])},
        ["N", "L", WIDTH],
        words=floats(WORDS, WIDTH),
        positions=positions,
        zero=np.array([0]),
        axes=np.array([1]),
        **matrices(),
    )
    result = pipeline.plan(uploaded, {"ids": RNG.integers(0, WORDS, (80, 24))}, REQUEST)
    of_positions = row(result, "positions")
    assert result.outcome == "met"
    assert of_positions["bits"] < 32
    told = "104 of 128 rows were reached by no calibration sample"
    assert of_positions["note"].startswith(told)
    assert f"of positions {told}" in result.certificate["statement"]
    assert "reached by" not in (row(result, "words")["note"] or "")
    longer = RNG.integers(0, WORDS, (2, 128))
    before, after = outputs(uploaded, ids=longer), outputs(result.model, ids=longer)
    errors = np.linalg.norm(after - before, axis=2) / np.linalg.norm(before, axis=2)
    assert np.median(errors) < 0.3
    assert (outputs(result.model, ids=longer[:, :1]) != outputs(uploaded, ids=longer[:, :1])).any()


def test_a_bias_of_relative_positions_is_planned() -> None:
    nodes = [node("Gather", ["relative", "place"], ["b"]), node("Reshape", ["b", "square"], ["bias"])]
    nodes += [node("Identity", ["x"], ["h"]), *attention("bias")]
    length = 40
    uploaded = model(
        nodes,
        {"x": (TensorProto.FLOAT, ["N", length, WIDTH])},
        ["N", length, WIDTH],
        relative=floats(2 * length - 1, 1),
        place=(np.arange(length)[:, None] - np.arange(length)[None] + length - 1).ravel(),
        square=np.array([length, length]),
        **matrices(),
    )
    result = pipeline.plan(uploaded, {"x": floats(60, length, WIDTH)}, REQUEST)
    assert {layer["op_type"] for layer in result.plan["layers"]} == {"MatMul", "Add"}
    assert result.plan["stays_float"]["bytes"] == 0


def test_coordinates_may_stay_float() -> None:
    """Numbers of pixels to which a hundredth of one is added: fewer bits lose all that the network says."""
    grid = np.stack(np.meshgrid(np.arange(32), np.arange(32)), -1).reshape(-1, 2).T.astype(np.float32) * 16
    nodes = [node("MatMul", ["x", "W"], ["m"]), node("Tanh", ["m"], ["d"])]
    nodes += [node("Reshape", ["d", "shape"], ["r"]), node("Add", ["r", "grid"], ["y"])]
    uploaded = model(
        nodes,
        {"x": (TensorProto.FLOAT, ["N", 6])},
        ["N", 2, 1024],
        W=floats(6, 2048),
        shape=np.array([0, 2, 1024]),
        grid=grid,
    )
    request = {"budget": {"max_drop": 0.01}, "weights": {"bits": [3, 8]}}
    result = pipeline.plan(uploaded, {"x": floats(60, 6)}, request)
    assert result.outcome == "met"
    assert row(result, "grid")["format"] == "float32"
    [entry] = result.plan["stays_float"]["tensors"]
    assert entry == {"name": "grid", "bytes": 8192, "reason": "the plan leaves it float"}
    assert "grid (the plan leaves it float)" in result.certificate["statement"]
    kept = pipeline.plan(uploaded, {"x": floats(60, 6)}, request | {"layers": {"grid": {"keep": True}}})
    assert kept.plan["stays_float"]["tensors"][0]["reason"] == "kept as requested"


def test_tables_of_float16_are_planned() -> None:
    nodes = [node("MatMul", ["x", "W"], ["m"]), node("Add", ["m", "table"], ["y"])]
    constants = {"W": floats(WIDTH, WIDTH).astype(np.float16), "table": floats(1, 40, WIDTH).astype(np.float16)}
    uploaded = onnx.load_from_string(
        model(nodes, {"x": (TensorProto.FLOAT16, ["N", 40, WIDTH])}, ["N", 40, WIDTH], **constants)
    )
    uploaded.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT16
    samples = {"x": floats(60, 40, WIDTH).astype(np.float16)}
    request = {"budget": {"max_drop": 0.05}, "weights": {"bits": [2, 8]}}
    result = pipeline.plan(uploaded.SerializeToString(), samples, request)
    assert result.outcome == "met"
    assert row(result, "table")["bits"] in (2, 8)
    kept = request | {"layers": {"table": {"keep": True}}}
    result = pipeline.plan(uploaded.SerializeToString(), samples, kept)
    assert row(result, "table")["format"] == "float16"
    [entry] = result.plan["stays_float"]["tensors"]
    assert entry == {"name": "table", "bytes": 2 * 40 * WIDTH, "reason": "kept as requested"}


def test_a_table_that_no_sample_reaches_stays_float() -> None:
    def branch(name: str) -> onnx.GraphProto:
        made = helper.make_tensor_value_info(f"in_{name}", TensorProto.FLOAT, None)
        table = numpy_helper.from_array(floats(40, WIDTH), name)
        return helper.make_graph([node("Add", ["m", name], [f"in_{name}"])], name, [], [made], [table])

    nodes = [
        node("MatMul", ["x", "W"], ["m"]),
        node("ReduceMax", ["x"], ["most"], keepdims=0),
        node("Less", ["most", "much"], ["usual"]),
        node("If", ["usual"], ["y"], then_branch=branch("taken"), else_branch=branch("never")),
    ]
    constants = {"W": floats(WIDTH, WIDTH), "much": np.float32(1e6)}
    uploaded = model(nodes, {"x": (TensorProto.FLOAT, ["N", 40, WIDTH])}, ["N", 40, WIDTH], **constants)
    request = {"budget": {"max_drop": 0.2}, "weights": {"bits": [4, 8]}}
    result = pipeline.plan(uploaded, {"x": floats(60, 40, WIDTH)}, request)
    assert row(result, "taken")["bits"] < 32
    assert row(result, "never")["format"] == "float32"
    assert result.plan["unreached"] == ["never"]
    assert result.plan["stays_float"]["tensors"][0]["reason"] == "no sample shows what it does"

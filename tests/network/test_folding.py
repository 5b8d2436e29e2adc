"""Folding changes no value: what onnxscript's other rules would have changed."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from network.folding import Folding
from network.normalise import dump, normalise

RNG = np.random.default_rng(4)


def floats(*shape: int) -> np.ndarray[Any, Any]:
    return RNG.normal(size=shape).astype(np.float32)


W = floats(5, 6)
ROWS = np.concatenate([np.zeros((3, 5), np.float32), floats(5, 5)])
node = helper.make_node

# name: nodes behind h = x @ W, constants
CASES: dict[str, tuple[list[onnx.NodeProto], dict[str, Any]]] = {
    "a small number added": (
        [node("Mul", ["h", "h"], ["s"]), node("Add", ["s", "e"], ["t"]), node("Log", ["t"], ["y"])],
        {"e": np.float32(1e-10)},
    ),
    "a factor near one, to the 64": (
        [
            node("Mul", ["h", "k"], ["s"]),
            node("Sub", ["s", "h"], ["t"]),
            node("Mul", ["t", "large"], ["y"]),
        ],
        {"k": np.float32(1 + 2**-20), "large": np.float32(2**20)},
    ),
    "a zero with more axes": ([node("Add", ["h", "z"], ["y"])], {"z": np.zeros((1, 1, 1), np.float32)}),
    "Clip below zero, Relu": (
        [node("Clip", ["h", "low", "high"], ["c"]), node("Relu", ["c"], ["y"])],
        {"low": np.float32(-3), "high": np.float32(-1)},
    ),
    "Relu, Clip below zero": (
        [node("Relu", ["h"], ["r"]), node("Clip", ["r", "low", "high"], ["y"])],
        {"low": np.float32(-3), "high": np.float32(-1)},
    ),
    "two Clips side by side": (
        [node("Clip", ["h", "a", "b"], ["c"]), node("Clip", ["c", "d", "e"], ["y"])],
        {"a": np.float32(-1), "b": np.float32(0), "d": np.float32(0.5), "e": np.float32(1)},
    ),
    "Max above Min": (
        [node("Max", ["h", "one"], ["m"]), node("Min", ["m", "minus"], ["y"])],
        {"one": np.float32(1), "minus": np.float32(-1)},
    ),
    "unequal halves": (
        [
            node("Slice", ["h", "zero", "two", "last"], ["p"]),
            node("Slice", ["h", "two", "six", "last"], ["q"]),
            node("Concat", ["q", "p"], ["y"], axis=1),
        ],
        {"zero": np.array([0]), "two": np.array([2]), "six": np.array([6]), "last": np.array([-1])},
    ),
    "every row scattered and added": (
        [
            node("Transpose", ["h"], ["t"], perm=[1, 0]),
            node("ScatterND", ["t", "rows", "t"], ["u"], reduction="add"),
            node("Transpose", ["u"], ["y"], perm=[1, 0]),
        ],
        {"rows": np.arange(6)[:, None]},
    ),
    "two Flattens of one value": (
        [
            node("Reshape", ["h", "shape"], ["r"]),
            node("Flatten", ["r"], ["f"], axis=1),
            node("Flatten", ["r"], ["g"], axis=2),
            node("ReduceMax", ["g", "last"], ["m"]),
            node("Reshape", ["m", "back"], ["n"]),
            node("Concat", ["f", "n"], ["y"], axis=1),
        ],
        {"shape": np.array([0, 2, 3]), "last": np.array([1]), "back": np.array([-1, 2])},
    ),
    "rounded to float32 before float16": (
        [
            node("Cast", ["h"], ["d"], to=TensorProto.DOUBLE),
            node("Mul", ["d", "k"], ["e"]),
            node("Cast", ["e"], ["f"], to=TensorProto.FLOAT),
            node("Cast", ["f"], ["g"], to=TensorProto.FLOAT16),
            node("Cast", ["g"], ["y"], to=TensorProto.FLOAT),
        ],
        {"k": np.float64(1 / 3)},
    ),
}


def made(name: str, opset: int = 18) -> onnx.ModelProto:
    nodes, constants = CASES[name]
    graph = helper.make_graph(
        [node("MatMul", ["x", "W"], ["h"]), *nodes],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 5])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(array), key) for key, array in {"W": W, **constants}.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def run(data: bytes) -> np.ndarray[Any, Any]:
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": ROWS})[0])


@pytest.mark.parametrize("folding", Folding)
@pytest.mark.parametrize("name", CASES)
def test_the_bits_stay(name: str, folding: Folding) -> None:
    model = made(name)
    network = normalise(model, folding=folding)
    np.testing.assert_array_equal(run(dump(network)), run(model.SerializeToString()))


def test_less_folding_rewrites_less() -> None:
    arrays = {"w": floats(4, 3, 3, 3), "s": floats(4), "b": floats(4), "m": floats(4), "v": np.abs(floats(4)) + 1}
    arrays |= {"a": np.float32(2), "c": np.float32(3)}
    nodes = [
        node("Conv", ["x", "w"], ["h"]),
        node("BatchNormalization", ["h", "s", "b", "m", "v"], ["n"]),
        node("Add", ["a", "c"], ["d"]),
        node("Mul", ["n", "d"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(array), key) for key, array in arrays.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    left = {folding: [n.op_type for n in normalise(model, folding=folding).proto.graph.node] for folding in Folding}
    assert left == {
        Folding.RULES: ["Conv", "Mul"],
        Folding.CONSTANTS: ["Conv", "BatchNormalization", "Mul"],
        Folding.NOTHING: ["Conv", "BatchNormalization", "Add", "Mul"],
    }


@pytest.mark.parametrize("zero_point", [np.zeros(6, np.int8), np.full(6, 120, np.uint8)])
def test_a_weight_that_each_run_quantizes_becomes_its_codes(zero_point: np.ndarray[Any, Any]) -> None:
    scales = np.linspace(0.01, 0.03, 6, dtype=np.float32)
    graph = helper.make_graph(
        [
            node("QuantizeLinear", ["w", "s", "z"], ["codes"], axis=1),
            node("DequantizeLinear", ["codes", "s", "z"], ["d"], axis=1),
            node("MatMul", ["x", "d"], ["h"]),
            node("MatMul", ["h", "v"], ["y"]),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 5])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4])],
        [
            numpy_helper.from_array(array, name)
            for name, array in {"w": W, "s": scales, "z": zero_point, "v": floats(6, 4)}.items()
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    x = floats(4, 5)
    with_codes = dump(normalise(model, folding=Folding.CONSTANTS))
    kept = onnx.ModelProto.FromString(with_codes).graph
    assert [n.op_type for n in kept.node] == ["DequantizeLinear", "MatMul", "MatMul"]
    runs = (
        onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
        for data in (model.SerializeToString(), with_codes)
    )
    np.testing.assert_array_equal(*runs)

"""Every float byte of a network is either planned or told, with the reason, wherever the file holds it."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import pipeline
from benchmarks.networks.constants import float_bytes
from network.admission import AdmissionLimits, admit
from network.graph import Network
from network.normalise import normalise
from pipeline.stays_float import SMALL, stays_float

RNG = np.random.default_rng(8)
node = helper.make_node
ROWS, WIDTH = 40, 32


def floats(*shape: int, dtype: type = np.float32) -> np.ndarray[Any, Any]:
    return RNG.normal(size=shape).astype(dtype)


def model(nodes: list[onnx.NodeProto], *tensors: onnx.TensorProto, **more: Any) -> onnx.ModelProto:
    """x [N, WIDTH] -> y."""
    graph = helper.make_graph(
        [node("MatMul", ["x", "W"], ["h"]), *nodes],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", WIDTH])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(floats(WIDTH, WIDTH), "W"), *tensors],
        sparse_initializer=more.pop("sparse", None),
    )
    domains = {"": 18, "ai.onnx.ml": 3, "com.microsoft": 1, "own": 1}
    opsets = [helper.make_opsetid(domain, version) for domain, version in domains.items()]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8, **more)


def inside(name: str, *tensors: onnx.TensorProto) -> onnx.GraphProto:
    return helper.make_graph(
        [node("Div", ["h", tensors[0].name], [name]) if tensors else node("Identity", ["h"], [name])],
        name,
        [],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None)],
        tensors,
    )


def constant(name: str, *shape: int, dtype: type = np.float32) -> onnx.TensorProto:
    return numpy_helper.from_array(floats(*shape, dtype=dtype), name)


def function() -> onnx.FunctionProto:
    nodes = [node("Constant", [], ["c"], value=constant("", 80, WIDTH)), node("ReduceProd", ["c"], ["p"], keepdims=0)]
    nodes.append(node("Mul", ["a", "p"], ["b"]))
    return helper.make_function("own", "F", ["a"], ["b"], nodes, [helper.make_opsetid("", 18)])


def sparse() -> onnx.SparseTensorProto:
    return helper.make_sparse_tensor(
        numpy_helper.from_array(floats(300), "S"), numpy_helper.from_array(np.arange(300) * 5), [50, WIDTH]
    )


IF = [
    node("ReduceL1", ["h"], ["total"], keepdims=0),
    node("Greater", ["total", "half"], ["c"]),
    node("If", ["c"], ["y"], then_branch=inside("one", constant("B", 1, WIDTH, 50)), else_branch=inside("other")),
]
IF[2].attribute[0].g.node[0].op_type = "Div"
REGRESSOR = node(
    "LinearRegressor", ["h"], ["y"], domain="ai.onnx.ml", coefficients=floats(50 * WIDTH).tolist(), targets=50
)
PROD = node("Div", ["h", "p"], ["y"])
HALF = numpy_helper.from_array(np.float32(0.5), "half")
FILES: dict[str, tuple[onnx.ModelProto, dict[str, str]]] = {
    "initializers": (
        model([node("ReduceProd", ["P"], ["p"], keepdims=0), PROD], constant("P", ROWS, 2000)),
        {"P": "read by ReduceProd, which takes no rounded values"},
    ),
    "a Constant": (
        model(
            [
                node("Constant", [], ["P"], value=constant("", ROWS, 2000)),
                node("ReduceProd", ["P"], ["p"], keepdims=0),
                PROD,
            ]
        ),
        {"P": "read by ReduceProd, which takes no rounded values"},
    ),
    "float64": (
        model(
            [node("ReduceProd", ["P"], ["d"], keepdims=0), node("Cast", ["d"], ["p"], to=TensorProto.FLOAT), PROD],
            constant("P", ROWS, 2000, dtype=np.float64),
        ),
        {"P": "of type float64, which has no format here"},
    ),
    "float16": (
        model(
            [node("ReduceProd", ["P"], ["d"], keepdims=0), node("Cast", ["d"], ["p"], to=TensorProto.FLOAT), PROD],
            constant("P", ROWS, 2000, dtype=np.float16),
        ),
        {"P": "of type float16, which has no format here"},
    ),
    "vectors": (
        model([node("Add", ["h", "a"], ["s"]), node("Mul", ["s", "b"], ["y"])], constant("a", WIDTH), constant("b", 1)),
        {"2 others": SMALL},
    ),
    "a body": (model(IF, HALF), {"B": "read by Div, which takes no rounded values", "1 others": SMALL}),
    "trees and the like": (model([REGRESSOR]), {"coefficients": "an attribute of ai.onnx.ml.LinearRegressor"}),
    "another's operator": (
        model(
            [node("ReduceProd", ["P"], ["p"], keepdims=0), node("Div", ["h", "p"], ["d"])]
            + [node("NhwcMaxPool", ["P"], ["n"], domain="com.microsoft"), node("Identity", ["d"], ["y"])],
            constant("P", ROWS, 2000),
        ),
        {"P": "read by com.microsoft.NhwcMaxPool, which has no format here"},
    ),
}


def of_names(entries: list[dict[str, Any]]) -> dict[str, str]:
    return {entry["name"].rpartition(".")[2]: entry["reason"] for entry in entries}


@pytest.mark.parametrize("name", [name for name in FILES if name != "another's operator"])
def test_planned_and_told_bytes_are_all(name: str) -> None:
    file, reasons = FILES[name]
    network = normalise(admit(file.SerializeToString(), AdmissionLimits()))
    check(file, network, reasons)


def check(file: onnx.ModelProto, network: Network, reasons: dict[str, str]) -> None:
    planned = [site for site in network.sites if site.name == "W"]
    allowed = {site.name: ["int4/channel"] for site in network.sites}
    left = stays_float(network, {site.weight for site in planned}, allowed)
    whole = sum(float_bytes(file))
    assert left["bytes"] + 4 * WIDTH * WIDTH == whole
    assert left["share"] == pytest.approx(left["bytes"] / whole)
    assert sum(entry["bytes"] for entry in left["tensors"]) == left["bytes"]
    assert of_names(left["tensors"]) == reasons

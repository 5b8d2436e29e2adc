"""Every float byte of a network is either planned or told, with the reason, wherever the file holds it."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from benchmarks.networks.constants import float_bytes
from network.admission import AdmissionLimits, admit
from network.normalise import normalise
from pipeline.stays_float import SMALL, stays_float

RNG = np.random.default_rng(8)
node = helper.make_node
ROWS, WIDTH = 48, 32


def floats(*shape: int, dtype: type = np.float32) -> np.ndarray[Any, Any]:
    return (RNG.normal(size=shape) + 10).astype(dtype)


def model(nodes: list[onnx.NodeProto], *tensors: onnx.TensorProto, **more: Any) -> onnx.ModelProto:
    """x [N, WIDTH] -> y."""
    graph = helper.make_graph(
        [node("MatMul", ["x", "W"], ["m"]), node("Unsqueeze", ["m", "axis"], ["h"]), *nodes],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", WIDTH])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [constant("W", WIDTH, WIDTH), numpy_helper.from_array(np.array([1]), "axis"), *tensors],
        sparse_initializer=more.pop("sparse", None),
    )
    domains = {"": 18, "ai.onnx.ml": 3, "com.microsoft": 1, "own": 1}
    opsets = [helper.make_opsetid(domain, version) for domain, version in domains.items()]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8, **more)


def divided(value: str = "h", table: str = "P", output: str = "y") -> onnx.NodeProto:
    """[N, 1, WIDTH] / [ROWS, WIDTH], which nobody may round."""
    return node("Div", [value, table], [output])


def inside(name: str, *nodes: onnx.NodeProto, weights: list[onnx.TensorProto] | None = None) -> onnx.GraphProto:
    return helper.make_graph(
        list(nodes), name, [], [helper.make_tensor_value_info(name, TensorProto.FLOAT, None)], weights
    )


def constant(name: str, *shape: int, dtype: type = np.float32) -> onnx.TensorProto:
    return numpy_helper.from_array(floats(*shape, dtype=dtype), name)


def function() -> onnx.FunctionProto:
    nodes = [node("Constant", [], ["c"], value=constant("", ROWS, WIDTH)), divided("a", "c", "b")]
    return helper.make_function("own", "F", ["a"], ["b"], nodes, [helper.make_opsetid("", 18)])


def as_type(kind: int) -> list[onnx.NodeProto]:
    return [
        node("Cast", ["h"], ["cast"], to=kind),
        divided("cast", "P", "d"),
        node("Cast", ["d"], ["y"], to=TensorProto.FLOAT),
    ]


SPARSE = helper.make_sparse_tensor(
    numpy_helper.from_array(np.abs(floats(ROWS * WIDTH)) + 1, "P"),
    numpy_helper.from_array(np.arange(ROWS * WIDTH), "places"),
    [ROWS, WIDTH],
)
IF = [
    node("ReduceL1", ["h"], ["total"], keepdims=0),
    node("Greater", ["total", "half"], ["c"]),
    node(
        "If",
        ["c"],
        ["y"],
        then_branch=inside("one", divided("h", "B", "one"), weights=[constant("B", ROWS, WIDTH)]),
        else_branch=inside(
            "two", node("Constant", [], ["C"], value=constant("", ROWS, WIDTH)), divided("h", "C", "two")
        ),
    ),
]
REGRESSOR = node(
    "LinearRegressor", ["h"], ["y"], domain="ai.onnx.ml", coefficients=floats(50 * WIDTH).tolist(), targets=50
)
HALF = numpy_helper.from_array(np.float32(0.5), "half")
DIVIDES = "read by Div, which takes no rounded values"
FILES: dict[str, tuple[onnx.ModelProto, dict[str, str]]] = {
    "initializers": (model([divided()], constant("P", ROWS, WIDTH)), {"P": DIVIDES}),
    "a Constant": (model([node("Constant", [], ["P"], value=constant("", ROWS, WIDTH)), divided()]), {"P": DIVIDES}),
    "a list": (
        model(
            [
                node("Constant", [], ["l"], value_floats=floats(ROWS * WIDTH).tolist()),
                node("Constant", [], ["s"], value_ints=[ROWS, WIDTH]),
                node("Reshape", ["l", "s"], ["P"]),
                divided(),
            ]
        ),
        {"P": DIVIDES},
    ),
    "a function": (model([node("F", ["h"], ["y"], domain="own")], functions=[function()]), {"c__1": DIVIDES}),
    "sparse": (model([divided()], sparse=[SPARSE]), {"P": DIVIDES}),
    "float64": (
        model(as_type(TensorProto.DOUBLE), constant("P", ROWS, WIDTH, dtype=np.float64)),
        {"P": "of type float64, which has no format here"},
    ),
    "float16": (
        model(as_type(TensorProto.FLOAT16), constant("P", ROWS, WIDTH, dtype=np.float16)),
        {"P": "of type float16, which has no format here"},
    ),
    "vectors": (
        model(
            [node("Add", ["h", "a"], ["s"]), node("Mul", ["s", "b"], ["y"])], constant("a", WIDTH), constant("b", 3, 1)
        ),
        {"2 others": SMALL},
    ),
    "bodies": (model(IF, HALF), {"B": DIVIDES, "C": DIVIDES, "1 others": SMALL}),
    "attributes": (model([REGRESSOR]), {"coefficients": "an attribute of ai.onnx.ml.LinearRegressor"}),
    "many": (
        model(
            [divided("h" if n == 0 else f"d{n}", f"P{n}", "y" if n == 24 else f"d{n + 1}") for n in range(25)],
            *(constant(f"P{n}", ROWS, WIDTH) for n in range(25)),
        ),
        {f"P{n}": DIVIDES for n in (*range(10), *range(10, 20))} | {"5 others": DIVIDES},
    ),
}


def of_names(entries: list[dict[str, Any]]) -> dict[str, str]:
    return {entry["name"].rpartition(".")[2]: entry["reason"] for entry in entries}


@pytest.mark.parametrize("name", FILES)
def test_planned_and_told_bytes_are_all(name: str) -> None:
    file, reasons = FILES[name]
    network = normalise(admit(file.SerializeToString(), AdmissionLimits()))
    planned = [site for site in network.sites if site.name == "W"]
    allowed = {site.name: ["int4/channel"] for site in network.sites}
    left = stays_float(network, {site.weight for site in planned}, allowed)
    whole = sum(float_bytes(file))
    assert left["bytes"] + 4 * WIDTH * WIDTH == whole
    assert left["share"] == pytest.approx(left["bytes"] / whole)
    assert sum(entry["bytes"] for entry in left["tensors"]) == left["bytes"]
    names = of_names(left["tensors"])
    assert set(names.values()) == set(reasons.values())
    assert len(names) == len(reasons)
    if name != "many":  # of as many bytes, the first by name
        assert names == reasons

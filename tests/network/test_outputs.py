"""Outputs that no node makes keep their names, their order and what they hold."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from network.folding import Folding
from network.normalise import dump, normalise

RNG = np.random.default_rng(7)
node = helper.make_node
W = RNG.normal(size=(5, 6)).astype(np.float32)
X = RNG.normal(size=(3, 5)).astype(np.float32)
SHAPES = {"x": ["N", 5], "W": [5, 6], "y": ["N", 6], "z": ["N", 6]}


def made(nodes: list[onnx.NodeProto], outputs: list[str], **constants: Any) -> onnx.ModelProto:
    arrays = {"W": W} | constants
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, SHAPES["x"])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, SHAPES[name]) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


LINEAR = node("MatMul", ["x", "W"], ["y"])


@pytest.mark.parametrize("folding", Folding)
@pytest.mark.parametrize(
    ("nodes", "outputs"),
    [
        ([LINEAR], ["y", "x"]),
        ([LINEAR], ["x", "y"]),
        ([LINEAR], ["y", "y"]),
        ([LINEAR], ["W", "y", "W"]),
        ([LINEAR], ["y", "x", "y", "W", "x", "W"]),
        ([LINEAR, node("Relu", ["y"], ["z"])], ["z", "y", "z"]),
        ([LINEAR, node("Identity", ["y"], ["z"])], ["z", "y"]),
        ([LINEAR, node("Identity", ["y"], ["z"])], ["y", "z", "x"]),
        ([node("MatMul", ["x", "W"], ["z"]), node("Identity", ["z"], ["y"])], ["y"]),
    ],
)
def test_the_interface_is_the_uploaded_one(nodes: list[onnx.NodeProto], outputs: list[str], folding: Folding) -> None:
    model = made(nodes, outputs)
    network = normalise(model, folding=folding)
    assert [spec.name for spec in network.outputs] == outputs
    assert [spec.name for spec in network.inputs] == ["x"]
    runs = [
        onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"]).run(None, {"x": X})
        for data in (model.SerializeToString(), dump(network))
    ]
    for one, other in zip(*runs, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_weight_that_is_an_output_too_stays_a_site_and_the_output_what_it_was() -> None:
    network = normalise(made([LINEAR], ["y", "W"]))
    [site] = network.sites
    assert site.weight != "W"
    assert {site.weight, "W"} <= network.initializers.keys()


def test_a_weight_that_folding_changes_stays_as_an_output() -> None:
    w = RNG.normal(size=(4, 3, 1, 1)).astype(np.float32)
    constants = {name: np.full(4, value, np.float32) for name, value in zip("sbmv", (2, 1, 0, 3), strict=True)}
    graph = helper.make_graph(
        [node("Conv", ["x", "w"], ["c"]), node("BatchNormalization", ["c", "s", "b", "m", "v"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 2, 2])],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4, 2, 2]),
            helper.make_tensor_value_info("w", TensorProto.FLOAT, list(w.shape)),
        ],
        [numpy_helper.from_array(array, name) for name, array in ({"w": w} | constants).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    network = normalise(model)
    assert [n.op_type for n in network.proto.graph.node] == ["Conv"]
    np.testing.assert_array_equal(network.weight("w"), w)
    x = RNG.normal(size=(2, 3, 2, 2)).astype(np.float32)
    runs = [
        onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"]).run(None, {"x": x})
        for data in (model.SerializeToString(), dump(network))
    ]
    np.testing.assert_allclose(runs[0][0], runs[1][0], rtol=1e-5, atol=1e-6)

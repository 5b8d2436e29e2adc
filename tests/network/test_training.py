"""Networks in training mode are refused, in whatever way their opset says it."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from network.admission import AdmissionLimits, admit
from network.errors import TrainingMode
from network.training import require_inference

node = helper.make_node
STATISTICS = ["x", "s", "b", "m", "v"]


def made(nodes: list[onnx.NodeProto], opset: int, **constants: Any) -> onnx.ModelProto:
    arrays = {name: np.ones(3, np.float32) for name in "sbmv"} | constants
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 3, 2, 2]) for name in "x"]
        + [helper.make_tensor_value_info("flag", TensorProto.BOOL, [])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3, 2, 2])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


TRUE, FALSE = {"t": np.array(True), "r": np.float32(0.5)}, {"t": np.array(False), "r": np.float32(0.5)}
BN, DROP = "BatchNormalization", "Dropout"

TRAINING = {
    "BatchNormalization 15": made([node(BN, STATISTICS, ["y", "rm", "rv"], "bn", training_mode=1)], 15),
    "BatchNormalization 14, one output": made([node(BN, STATISTICS, ["y"], "bn", training_mode=1)], 14),
    "BatchNormalization 9": made([node(BN, STATISTICS, ["y", "m1", "v1", "m2", "v2"], "bn")], 9),
    "BatchNormalization 7": made([node(BN, STATISTICS, ["y", "", "", "", "v2"], "bn")], 7),
    "BatchNormalization 6": made([node(BN, STATISTICS, ["y"], "bn")], 6),
    "Dropout 13": made([node(DROP, ["x", "r", "t"], ["y"], "drop")], 13, **TRUE),
    "Dropout 12, a node": made(
        [
            node("Constant", [], ["t"], value=numpy_helper.from_array(np.array(True))),
            node(DROP, ["x", "", "t"], ["y"], "drop"),
        ],
        12,
    ),
    "Dropout 22, an input": made([node(DROP, ["x", "", "flag"], ["y"], "drop")], 22),
    "Dropout 6": made([node(DROP, ["x"], ["y"], "drop")], 6),
}
INFERENCE = {
    "BatchNormalization 15": made([node(BN, STATISTICS, ["y"])], 15),
    "BatchNormalization 15, said": made([node(BN, STATISTICS, ["y"], training_mode=0)], 15),
    "BatchNormalization 9": made([node(BN, STATISTICS, ["y", "", ""])], 9),
    "BatchNormalization 6": made([node(BN, STATISTICS, ["y"], is_test=1)], 6),
    "Dropout 13": made([node(DROP, ["x", "r", "t"], ["y"])], 13, **FALSE),
    "Dropout 13, two inputs": made([node(DROP, ["x", "r"], ["y"])], 13, **TRUE),
    "Dropout 13, a node": made(
        [
            node("Constant", [], ["t"], value=numpy_helper.from_array(np.array(False))),
            node(DROP, ["x", "", "t"], ["y"]),
        ],
        13,
    ),
    "Dropout 7": made([node(DROP, ["x"], ["y"], ratio=0.5)], 7),
    "Dropout 6": made([node(DROP, ["x"], ["y"], is_test=1)], 6),
}


@pytest.mark.parametrize("name", TRAINING)
def test_training_mode_is_refused_and_names_the_node(name: str) -> None:
    named = "bn" if name.startswith("Batch") else "drop"
    with pytest.raises(TrainingMode, match=rf"training mode: {named} \({name.split()[0]}\).*eval\(\)"):
        require_inference(TRAINING[name])


@pytest.mark.parametrize("name", INFERENCE)
def test_what_computes_the_same_each_time_is_taken(name: str) -> None:
    require_inference(INFERENCE[name])


def test_admission_refuses_it_in_a_subgraph_and_in_a_function_too() -> None:
    training = TRAINING["BatchNormalization 14, one output"]
    branch = helper.make_graph(
        [node(BN, STATISTICS, ["z"], "bn", training_mode=1)],
        "branch",
        [],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, ["N", 3, 2, 2])],
    )
    model = made([node("If", ["flag"], ["y"], then_branch=branch, else_branch=branch)], 15)
    function = helper.make_function("own", "Layer", STATISTICS, ["y"], training.graph.node, training.opset_import)
    called = made([node("Layer", STATISTICS, ["y"], domain="own")], 14)
    called.functions.append(function)
    called.opset_import.append(helper.make_opsetid("own", 1))
    for one in (model, called):
        with pytest.raises(TrainingMode, match="BatchNormalization"):
            admit(one.SerializeToString(), AdmissionLimits())

"""An input of one row beside others of any number of samples: the whole network runs one sample at a time."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper, numpy_helper

import pipeline

SAMPLES = 120


def test_a_row_that_is_fixed_beside_free_ones() -> None:
    generator = np.random.default_rng(0)
    weights = {"W": generator.standard_normal((6, 16)), "V": generator.standard_normal((2, 16))}
    weights["D"] = generator.standard_normal((16, 3))
    nodes = [
        helper.make_node("MatMul", ["x", "W"], ["h"]),
        helper.make_node("MatMul", ["speed", "V"], ["s"]),
        helper.make_node("Add", ["h", "s"], ["both"]),
        helper.make_node("Relu", ["both"], ["r"]),
        helper.make_node("MatMul", ["r", "D"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 6]),
            helper.make_tensor_value_info("speed", TensorProto.FLOAT, [1, 2]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    data = {"x": generator.standard_normal((SAMPLES, 6)), "speed": generator.standard_normal((SAMPLES, 2))}
    arrays = {name: array.astype(np.float32) for name, array in data.items()}
    request = {"budget": {"max_drop": 0.05}, "weights": {"bits": [4, 8]}}
    assert pipeline.plan(model.SerializeToString(), arrays, request).outcome == "met"

"""Candidates that leave a network without a number: they are in no plan, and end no job."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper, numpy_helper

import pipeline
from pipeline.analysis import DESTROYED, destroyed_last
from sensitivity.interaction_matrix import InteractionMatrix

SAMPLES = 160


def log_of_features() -> bytes:
    """y = log(|x| F - 0.02) D: narrow formats of F make what the logarithm reads negative."""
    generator = np.random.default_rng(0)
    weights = {
        "F": (0.03 + 0.2 * generator.random((12, 8)) ** 4).astype(np.float32),
        "D": generator.standard_normal((8, 3)).astype(np.float32),
        "least": np.float32(0.02 * 12),
    }
    nodes = [
        helper.make_node("Abs", ["x"], ["a"]),
        helper.make_node("MatMul", ["a", "F"], ["f"]),
        helper.make_node("Sub", ["f", "least"], ["s"]),
        helper.make_node("Log", ["s"], ["l"]),
        helper.make_node("MatMul", ["l", "D"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 12])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return bytes(model.SerializeToString())


def test_a_candidate_without_a_number_is_worse_than_all_others() -> None:
    measured = np.array([0.1, np.inf, 0.3])
    matrix = np.array([[0.1, np.nan, 0.05], [np.nan, np.nan, np.nan], [0.05, np.nan, 0.3]])
    own, interactions = destroyed_last(measured, InteractionMatrix.of(matrix))
    assert own.tolist() == [0.1, DESTROYED, 0.3]
    whole = interactions.whole()
    assert interactions.is_finite
    assert whole[1].tolist() == whole[:, 1].tolist() == [0.0, DESTROYED, 0.0]
    assert whole[0, 2] == 0.05


def test_a_job_whose_narrow_formats_give_no_number_is_met() -> None:
    x = np.random.default_rng(1).uniform(1, 2, (SAMPLES, 12)).astype(np.float32)
    result = pipeline.plan(log_of_features(), {"x": x}, {"budget": {"max_drop": 0.05}, "weights": {"bits": [2, 3, 8]}})
    assert result.outcome == "met"
    assert result.frontier is not None

"""A flag is 0 or 1: of anything else ONNX Runtime makes one thing here and another there."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from network.admission import AdmissionLimits, admit
from network.errors import ModelInvalid


def made(**given: int) -> bytes:
    value = helper.make_tensor_value_info
    nodes = [
        helper.make_node("Gemm", ["x", "W"], ["h"], **{k: v for k, v in given.items() if k == "transB"}),
        helper.make_node("ReduceMean", ["h", "one"], ["y"], **{k: v for k, v in given.items() if k == "keepdims"}),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [value("x", TensorProto.FLOAT, ["N", 4])],
        [value("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.ones((4, 4), np.float32), "W"), numpy_helper.from_array(np.array([1]), "one")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    return bytes(model.SerializeToString())


@pytest.mark.parametrize("number", [2, -1, 1 << 40])
@pytest.mark.parametrize("flag", ["transB", "keepdims"])
def test_other_numbers_are_refused(flag: str, number: int) -> None:
    with pytest.raises(ModelInvalid, match=rf"\((Gemm|ReduceMean)\) has {flag}={number}; expected 0 or 1"):
        admit(made(**{flag: number}), AdmissionLimits())


@pytest.mark.parametrize("number", [0, 1])
def test_flags_are_taken(number: int) -> None:
    admit(made(transB=number, keepdims=number), AdmissionLimits())

"""What is multiplied is counted from shapes, and never more than the operators do."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from network.memory import estimate_memory

node, value = helper.make_node, helper.make_tensor_value_info


def macs(nodes: list[NodeProto], shape: list[int | str], **constants: np.ndarray) -> int:
    graph = helper.make_graph(
        nodes,
        "g",
        [value("x", TensorProto.FLOAT, shape)],
        [value("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model: ModelProto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    return estimate_memory(model, batch=1).macs


def ones(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


@pytest.mark.parametrize(
    ("made", "shape", "weight", "expected"),
    [
        (node("MatMul", ["x", "W"], ["y"]), ["N", 5, 4], ones(4, 3), 5 * 3 * 4),
        (node("Gemm", ["x", "W"], ["y"]), ["N", 4], ones(4, 3), 3 * 4),
        (node("Gemm", ["x", "W"], ["y"], transA=1), [4, 2], ones(4, 3), 2 * 3 * 4),
        (node("Conv", ["x", "W"], ["y"]), ["N", 4, 8, 8], ones(6, 2, 3, 3), 6 * 6 * 6 * 2 * 9),
        (node("ConvTranspose", ["x", "W"], ["y"]), ["N", 4, 8, 8], ones(4, 6, 2, 2), 4 * 64 * 6 * 4),
        (node("Relu", ["x"], ["y"]), ["N", 4], ones(1), 0),
    ],
)
def test_each_operator(made: NodeProto, shape: list[int | str], weight: np.ndarray, expected: int) -> None:
    if made.op_type == "Conv":
        made.attribute.append(helper.make_attribute("group", 2))
    assert macs([made], shape, W=weight) == expected


def test_a_product_of_values_that_a_few_numbers_make() -> None:
    nodes = [node("Expand", ["W", "s"], ["big"]), node("MatMul", ["big", "big"], ["z"]), node("Add", ["x", "z"], ["y"])]
    assert macs(nodes, ["N", 1], W=ones(1), s=np.array([12_000, 12_000])) == 12_000**3

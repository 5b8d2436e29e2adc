"""Small networks for ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper


@pytest.fixture
def linear() -> Callable[..., bytes]:
    """`linear(batch)`: x [batch, 3] -> first output x W [batch, 4], second output -x."""

    def build(batch: int | str | None = "N", second_batch: int | str | None = None) -> bytes:
        weight = np.arange(12, dtype=np.float32).reshape(3, 4) / 7
        inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3])]
        nodes = [helper.make_node("MatMul", ["x", "W"], ["y"]), helper.make_node("Neg", ["x"], ["minus"])]
        if second_batch is not None:
            inputs.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, [second_batch, 3]))
            nodes.append(helper.make_node("Neg", ["z"], ["unused"]))
        outputs = [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 4]),
            helper.make_tensor_value_info("minus", TensorProto.FLOAT, [batch, 3]),
        ]
        graph = helper.make_graph(nodes, "g", inputs, outputs, [numpy_helper.from_array(weight, "W")])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
        return bytes(model.SerializeToString())

    return build


@pytest.fixture
def single_node() -> Callable[..., bytes]:
    """`single_node(op_type, shape of x, shape of y, **attributes)`: y = op(x), as a file."""

    def build(
        op_type: str, x: list[int | str], y: list[int | str], kind: int = TensorProto.FLOAT, **more: object
    ) -> bytes:
        graph = helper.make_graph(
            [helper.make_node(op_type, ["x"], ["y"], **more)],
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, x)],
            [helper.make_tensor_value_info("y", kind, y)],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
        return bytes(model.SerializeToString())

    return build

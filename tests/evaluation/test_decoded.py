"""Weights that functions decode are decoded one by one, to the bits that ONNX Runtime has when it does all at once."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from evaluation.decoded import decoded
from evaluation.session import deterministic_session, session_options, session_with
from network.weight_folder import WeightFolder

WIDTH = 200


def model(operator: str = "Cast", *, returned: bool = False) -> onnx.ModelProto:
    """A matrix of codes behind a function that ends in `operator`, and a product with it."""
    step = numpy_helper.from_array(np.float32(0.02), "s")
    codes = np.random.default_rng(0).integers(-8, 8, (WIDTH, WIDTH)).astype(np.int8)
    body = (
        [helper.make_node("Cast", ["c"], ["f"], to=TensorProto.FLOAT), helper.make_node("Mul", ["f", "s"], ["w"])]
        if operator == "Cast"
        else [helper.make_node(operator, ["c", "s"], ["w"])]
    )
    opsets = [helper.make_opsetid("", 21)]
    function = helper.make_function("own", "Decoder", ["c", "s"], ["w"], body, opsets)
    outputs = ["y", "w"] if returned else ["y"]
    graph = helper.make_graph(
        [helper.make_node("Decoder", ["c", "s"], ["w"], domain="own"), helper.make_node("MatMul", ["x", "w"], ["y"])],
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", WIDTH])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(codes, "c"), step],
    )
    opsets.append(helper.make_opsetid("own", 1))
    return helper.make_model(graph, functions=[function], opset_imports=opsets, ir_version=10)


def test_the_session_has_the_bits_of_the_file() -> None:
    file = model().SerializeToString()
    options = session_options(1)
    options.use_deterministic_compute = True
    samples = {"x": np.random.default_rng(1).normal(size=(7, WIDTH)).astype(np.float32)}
    (expected,) = session_with(file, options).run(None, samples)
    np.testing.assert_array_equal(deterministic_session(file, 1).run(None, samples)[0], expected)


def test_what_is_loaded_has_the_values_and_no_decoder() -> None:
    folder = WeightFolder()
    lean = decoded(model(), folder, 1)
    assert lean is not None
    assert [node.op_type for node in lean.graph.node] == ["MatMul"]
    assert [(own.name, own.data_location) for own in lean.graph.initializer] == [("w", TensorProto.EXTERNAL)]


@pytest.mark.parametrize("other", [model("DequantizeLinear"), model(returned=True)])
def test_what_a_kernel_takes_along_and_what_is_returned_stays(other: onnx.ModelProto) -> None:
    assert decoded(other, WeightFolder(), 1) is None

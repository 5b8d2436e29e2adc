"""Functions of a file's own: their defaults reach what is inlined."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from network.admission import admit
from network.functions import state_defaults
from network.runtime import session_of
from tests.network.models import LIMITS, build, value


def leaky() -> onnx.FunctionProto:
    """LeakyRelu(x), alpha 0.3 where a call says nothing."""
    node = helper.make_node("LeakyRelu", ["a"], ["b"])
    node.attribute.append(AttributeProto(name="alpha", ref_attr_name="alpha", type=AttributeProto.FLOAT))
    function = helper.make_function("my", "Leaky", ["a"], ["b"], [node], [helper.make_opsetid("", 18)])
    function.attribute_proto.append(helper.make_attribute("alpha", 0.3))
    return function


def twice() -> onnx.FunctionProto:
    nodes = [helper.make_node("Leaky", ["a"], ["t"], domain="my"), helper.make_node("Leaky", ["t"], ["b"], domain="my")]
    return helper.make_function("my", "Twice", ["a"], ["b"], nodes, [helper.make_opsetid("my", 1)])


def network() -> onnx.ModelProto:
    nodes = [
        helper.make_node("Leaky", ["x"], ["p"], domain="my"),
        helper.make_node("Leaky", ["p"], ["q"], domain="my", alpha=0.9),
        helper.make_node("Twice", ["q"], ["r"], domain="my"),
        helper.make_node("MatMul", ["r", "W"], ["y"]),
    ]
    weights = {"W": np.eye(4, 3, dtype=np.float32)}
    return build(
        nodes, [value("x", ["N", 4])], [value("y", ["N", 3])], weights, functions=[leaky(), twice()], domains={"my": 1}
    )


def test_what_is_inlined_has_the_defaults_of_its_function() -> None:
    model = network()
    x = np.array([[-1, 2, -3, 4]], np.float32)
    expected = session_of(model, 1).run(None, {"x": x})[0]
    np.testing.assert_allclose(expected, [[-(0.3**3) * 0.9, 2, -3 * 0.3**3 * 0.9]], rtol=1e-5)
    np.testing.assert_array_equal(
        session_of(admit(model.SerializeToString(), LIMITS), 1).run(None, {"x": x})[0], expected
    )


def test_a_file_without_defaults_stays() -> None:
    tensor = numpy_helper.from_array(np.eye(2, dtype=np.float32), "W")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "W"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2])],
        [tensor],
    )
    model = helper.make_model(graph)
    before = model.SerializeToString()
    state_defaults(model)
    assert model.SerializeToString() == before

"""A network that is only run: what ONNX Runtime defines is taken as it is, what nobody defines is refused."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from network.admission import AdmissionLimits
from network.batching import Batching
from network.errors import CustomOperators, InterfaceDiffers, ModelTooLarge, RandomOperators
from network.uploaded import admit_to_run, as_uploaded, check_takes

LIMITS = AdmissionLimits()


def model(operator: str, domain: str = "", weight: float = 1.0, **attributes: object) -> bytes:
    inputs = ["x", "w"] if operator == "MatMul" else ["x"]
    graph = helper.make_graph(
        [helper.make_node(operator, inputs, ["y"], domain=domain, **attributes)],
        "run",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", None])],
        [numpy_helper.from_array(np.full((4, 3), weight, np.float32), "w")],
    )
    imports = [helper.make_opsetid("", 18), *([helper.make_opsetid(domain, 1)] if domain else [])]
    return helper.make_model(graph, opset_imports=imports, ir_version=8).SerializeToString()


@pytest.mark.parametrize(
    "data",
    [model("MatMul"), model("Gelu", "com.microsoft"), model("Binarizer", "ai.onnx.ml"), model("MatMul", weight=np.nan)],
)
def test_what_can_run_is_taken_as_it_is(data):
    proto = admit_to_run(data, LIMITS)
    assert proto == onnx.load_from_string(data)
    network = as_uploaded(proto, Batching())
    assert [(spec.name, spec.dtype, spec.shape) for spec in network.inputs] == [("x", "float32", (None, 4))]
    assert [spec.name for spec in network.outputs] == ["y"]
    assert network.sites == ()


def test_operators_that_nobody_defines_are_named():
    for data in (model("Thing", "com.microsoft"), model("Gelu", "foo.bar")):
        with pytest.raises(
            CustomOperators, match=r"(com\.microsoft\.Thing|foo\.bar\.Gelu) \(the node that makes 'y'\)"
        ):
            admit_to_run(data, LIMITS)
    with pytest.raises(RandomOperators):
        admit_to_run(model("RandomNormalLike"), LIMITS)
    with pytest.raises(ModelTooLarge):
        admit_to_run(model("MatMul"), AdmissionLimits(max_model_bytes=10))


def test_operators_of_functions_in_the_file_count_as_defined():
    proto = onnx.load_from_string(model("Twice", "own"))
    body = [helper.make_node("Add", ["a", "a"], ["b"])]
    proto.functions.append(helper.make_function("own", "Twice", ["a"], ["b"], body, [helper.make_opsetid("", 18)]))
    admit_to_run(proto.SerializeToString(), LIMITS)
    proto.functions[0].node[0].op_type = "Thing"
    with pytest.raises(CustomOperators, match="Thing"):
        admit_to_run(proto.SerializeToString(), LIMITS)


@pytest.mark.parametrize(
    ("fed", "text"),
    [
        ({"z": ("float32", (4,))}, "takes the inputs x, the float model z"),
        ({"x": ("float32", (4,)), "z": ("float32", (4,))}, "takes the inputs x, the float model x, z"),
        ({"x": ("float16", (4,))}, "takes float32, that of the float model float16"),
        ({"x": ("float32", (5,))}, r"has the shape \[any, 4\], of which a sample is"),
        ({"x": ("float32", (4, 1))}, "has the shape"),
    ],
)
def test_a_quantized_file_must_take_what_the_float_model_is_fed(fed, text):
    quantized = admit_to_run(model("MatMul"), LIMITS)
    check_takes(quantized, {"x": ("float32", (4,))}, Batching())
    with pytest.raises(InterfaceDiffers, match=text):
        check_takes(quantized, fed, Batching())

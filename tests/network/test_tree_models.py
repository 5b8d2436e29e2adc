"""Files of ai.onnx.ml: what has layers beside is taken, what has none is told so by its right name."""

from __future__ import annotations

from onnx import ModelProto, TensorProto, helper

from network.admission import admit
from network.errors import NothingToQuantize
from tests.network.models import LIMITS, build, linear, refusal, value

SCORES = {"coefficients": [1.0, -1.0, 0.5, 0.5, 2.0, 0.0], "intercepts": [0.0, 0.1, 0.2]}


def classifier() -> ModelProto:
    node = helper.make_node(
        "LinearClassifier", ["x"], ["label", "y"], domain="ai.onnx.ml", classlabels_ints=[0, 1, 2], **SCORES
    )
    outputs = [value("label", ["N"], TensorProto.INT64), value("y", ["N", 3])]
    return build([node], [value("x", ["N", 2])], outputs, domains={"ai.onnx.ml": 3})


def test_parameters_that_are_attributes_of_a_classifier_cannot_be_quantized() -> None:
    for standard in (True, False):
        model = classifier()
        if not standard:  # as converters write it that need no other operator
            del model.opset_import[0]
        text = refusal(model, NothingToQuantize)
        assert text.startswith("valid ONNX, but nothing here can be quantized: it has no Conv, Gemm, MatMul")
        assert "attributes of LinearClassifier" in text


def test_preprocessing_beside_layers_is_taken() -> None:
    model = linear()
    scaler = helper.make_node(
        "Scaler", ["x"], ["scaled"], domain="ai.onnx.ml", offset=[0.0] * 4, scale=[2.0, 1.0, 1.0, 1.0]
    )
    model.graph.node.insert(0, scaler)
    model.graph.node[1].input[0] = "scaled"
    picked = helper.make_node("ArrayFeatureExtractor", ["classes", "best"], ["label"], domain="ai.onnx.ml")
    model.graph.node.extend([helper.make_node("ArgMax", ["y"], ["best"], axis=1, keepdims=0), picked])
    model.graph.initializer.append(helper.make_tensor("classes", TensorProto.INT64, [1, 3], [3, 5, 7]))
    model.graph.output.append(value("label", [1, "N"], TensorProto.INT64))
    model.opset_import.append(helper.make_opsetid("ai.onnx.ml", 1))
    admitted = admit(model.SerializeToString(), LIMITS)
    assert {entry.domain for entry in admitted.opset_import} == {"", "ai.onnx.ml"}
    assert [node.op_type for node in admitted.graph.node][:2] == ["Scaler", "MatMul"]

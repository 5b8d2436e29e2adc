"""Outputs whose type or shape the file leaves out, and shapes that only ONNX Runtime knows."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from network.admission import admit
from network.batching import Batching
from network.errors import ModelInvalid
from network.onnx_graph import shape_of
from network.uploaded import admit_to_run, as_uploaded
from tests.network.models import LIMITS, build, linear, refusal, value


@pytest.mark.parametrize("left_out", ["type", "shape"])
def test_what_an_output_leaves_out_is_inferred(left_out: str) -> None:
    model = linear()
    if left_out == "type":
        model.graph.output[0].ClearField("type")
    else:
        model.graph.output[0].type.tensor_type.ClearField("shape")
    data = model.SerializeToString()
    for output in (admit(data, LIMITS).graph.output[0], admit_to_run(data, LIMITS).graph.output[0]):
        assert output.type.tensor_type.elem_type == TensorProto.FLOAT
        assert shape_of(output) == (None, 3)
    model.ParseFromString(data)
    assert as_uploaded(model, Batching()).outputs[0].shape == (None, 3)


def test_onnx_runtime_knows_the_types_of_its_own_operators() -> None:
    model = build(
        [
            helper.make_node("Unique", ["x"], ["u", "", "counts"], domain="com.microsoft", name="odd"),
            helper.make_node("Identity", ["counts"], ["y"]),
        ],
        [value("x", [4])],
        [value("y", [4])],
        domains={"com.microsoft": 1},
    )
    model.graph.node[0].output[1] = "indices"
    model.graph.output[0].ClearField("type")
    output = admit(model.SerializeToString(), LIMITS).graph.output[0]
    assert output.type.tensor_type.elem_type == TensorProto.INT64
    assert not output.type.tensor_type.HasField("shape")


def test_shape_inference_alone_refuses_nothing_that_onnx_runtime_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    infer = onnx.shape_inference.infer_shapes

    def strict(model: onnx.ModelProto, **how: bool) -> onnx.ModelProto:
        if how.get("strict_mode"):
            raise onnx.shape_inference.InferenceError("of one mind")
        return infer(model, **how)

    monkeypatch.setattr(onnx.shape_inference, "infer_shapes", strict)
    admit(linear().SerializeToString(), LIMITS)
    text = refusal(linear(W=np.eye(5, 3, dtype=np.float32)), ModelInvalid)
    assert "not valid ONNX: shape inference says: of one mind" in text

"""The plan for ONNX Runtime's own quantizer: it runs with it, and every tensor gets the type that the plan says."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime import InferenceSession
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

from workers.stages.candidates import Rounded
from workers.stages.payload import unpack

PAGE = Path(__file__).parents[3] / "docs" / "plan.md"


class Reader(CalibrationDataReader):
    def __init__(self, images: np.ndarray) -> None:
        self.batches = iter([{"image": images}])

    def get_next(self):
        return next(self.batches, None)


@pytest.fixture(scope="module")
def read_overrides():
    """The function that the page tells users to take."""
    (body,) = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    names: dict[str, object] = {}
    exec(compile(body, "docs/plan.md", "exec"), names)
    return names["read_overrides"]


@pytest.fixture
def quantized(tmp_path, read_overrides, samples):
    """`quantized(model, document)`: what ONNX Runtime's quantizer makes of the model with the overrides."""

    def run(model: bytes, document) -> onnx.ModelProto:
        (tmp_path / "float.onnx").write_bytes(model)
        quantize_static(
            tmp_path / "float.onnx",
            tmp_path / "quantized.onnx",
            Reader(samples["image"][:64]),
            activation_type=QuantType.QUInt8,
            nodes_to_exclude=document["nodes_to_exclude"],
            extra_options={"TensorQuantOverrides": read_overrides(document)},
        )
        return onnx.load(tmp_path / "quantized.onnx")

    return run


def applied(job, model, samples, formats, activations=()):
    layers = [{"name": name, "format": format_} for name, format_ in formats.items()]
    rows = [{"name": name, "format": format_} for name, format_ in activations]
    request = {"budget": {"max_drop": 1.0}, "plan": {"version": 1, "layers": layers, "activations": rows}}
    return job(model, samples, request).run()


def initializers(proto: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    return {tensor.name: tensor for tensor in proto.graph.initializer}


def test_weights_and_activations_get_the_types_and_grids_of_the_plan(job, model, samples, quantized):
    formats = {"conv1": "int8/channel", "conv2": "int4/channel", "fc": "int8/tensor"}
    activations = [("image", "uint8/tensor"), ("r1", "uint16/tensor"), ("r2", "uint8/tensor")]
    delivery = applied(job, model, samples, formats, activations)
    plan, document = (json.loads(delivery.artifacts[kind]) for kind in ("plan", "ort"))
    assert document["notes"] == []
    found = initializers(quantized(model, document))
    types = {name: found[f"{name}.weight_quantized"].data_type for name in formats}
    assert types == {"conv1": TensorProto.INT8, "conv2": TensorProto.INT4, "fc": TensorProto.INT8}
    own = {name: one for name, one in document["tensor_quant_overrides"].items() if name != "f"}  # that moves r2's
    for name, overrides in own.items():
        scale = numpy_helper.to_array(found[f"{name}_scale"])
        assert np.array_equal(scale.reshape(-1), np.float32([one["scale"] for one in overrides]))
    for row in plan["activations"]:
        zero_point = found[f"{row['name']}_zero_point"]
        wide = row["format"] == "uint16/tensor"
        assert zero_point.data_type == (TensorProto.UINT16 if wide else TensorProto.UINT8)
        assert numpy_helper.to_array(zero_point) == row["zero_point"]


def test_the_quantized_network_runs_and_is_about_as_good_as_the_delivered_one(job, model, samples, quantized):
    delivery = applied(job, model, samples, {"conv1": "int8/channel", "conv2": "int4/channel", "fc": "int8/channel"})
    ours, theirs = delivery.artifacts["model"], quantized(model, json.loads(delivery.artifacts["ort"]))
    right = []
    for file in (ours, theirs.SerializeToString()):
        logits = InferenceSession(file, providers=["CPUExecutionProvider"]).run(None, {"image": samples["image"]})[0]
        right.append((logits.argmax(1) == samples["labels"]).mean())
    assert right[1] == pytest.approx(right[0], abs=0.03)


def test_what_the_quantizer_lacks_is_wider_left_out_or_excluded_and_said(job, model, samples, quantized):
    delivery = applied(job, model, samples, {"conv1": "float32", "conv2": "int3/channel", "fc": "int5/tensor"})
    document = json.loads(delivery.artifacts["ort"])
    notes = {note["tensor"]: note["note"] for note in document["notes"]}
    assert "the nearest wider, 4" in notes["conv2.weight"]
    assert "the nearest wider, 8" in notes["fc.weight"]
    assert "activations are float32 in the plan" in notes[""]
    assert "scale" not in document["tensor_quant_overrides"]["conv2.weight"][0]
    found = initializers(quantized(model, document))
    assert found["conv1.weight"].data_type == TensorProto.FLOAT
    assert found["conv2.weight_quantized"].data_type == TensorProto.INT4
    assert found["fc.weight_quantized"].data_type == TensorProto.INT8


def test_a_weight_that_the_upload_holds_otherwise_has_its_range_found_anew(job, model, samples, quantized):
    """BatchNorm behind a convolution is folded: the plan's scales are those of another weight."""
    proto = onnx.ModelProto.FromString(model)
    for name, value in {"gain": 3.0, "offset": 0.0, "mean": 0.0, "variance": 1.0}.items():
        proto.graph.initializer.append(numpy_helper.from_array(np.full(12, value, dtype=np.float32), name))
    first = next(node for node in proto.graph.node if node.name == "first")
    first.output[0] = "before"
    inputs = ["before", "gain", "offset", "mean", "variance"]
    proto.graph.node.insert(1, helper.make_node("BatchNormalization", inputs, ["c1"], name="norm"))
    upload = proto.SerializeToString()
    delivery = applied(job, upload, samples, {"conv1": "int8/channel", "conv2": "int8/channel", "fc": "int8/channel"})
    document = json.loads(delivery.artifacts["ort"])
    notes = {note["tensor"]: note["note"] for note in document["notes"]}
    folded, *others = document["tensor_quant_overrides"]
    assert others
    for name, channels in document["tensor_quant_overrides"].items():
        assert ("scale" in channels[0]) == (name not in notes)
    assert [name for name in notes if name] == ["conv1.weight"]
    assert "its range is found anew" in notes["conv1.weight"]
    found = initializers(quantized(upload, document))
    assert found["conv1.weight_quantized"].data_type == TensorProto.INT8
    assert folded == "conv1.weight"


@pytest.mark.parametrize("rounding", ["gptq", "nearest"])
@pytest.mark.parametrize("format_", ["int2/channel", "int3/tensor", "int5/channel", "int4/channel/asymmetric"])
def test_every_stored_value_lies_on_the_grid_of_the_encodings(job, model, samples, rounding, format_):
    layers = [{"name": name, "format": format_} for name in ("conv1", "conv2", "fc")]
    request = {"budget": {"max_drop": 1.0}, "weights": {"rounding": rounding}, "plan": {"version": 1, "layers": layers}}
    run = job(model, samples, request)
    encodings = json.loads(run.run().artifacts["aimet"])["param_encodings"]
    _, certified = unpack(run.read("certify"))
    rounded = Rounded.unpack(certified["weights"].tobytes())
    assert [one["name"] for one in encodings] == ["conv1.weight", "conv2.weight", "fc.weight"]
    for one, (weight,) in zip(encodings, rounded.weights.values(), strict=True):
        scale, offset = (np.array(one[key])[:, None] for key in ("scale", "offset"))
        values = weight.dequantize().astype(np.float64).reshape(len(one["scale"]), -1)
        codes = values / scale - offset
        assert np.abs(codes - np.rint(codes)).max() < 1e-5
        assert codes.min() > -0.5
        assert codes.max() < 2 ** one["bw"] - 0.5


def test_formats_without_a_counterpart_are_left_out_with_a_note(job, model, samples, quantized):
    formats = {"conv1": "float16", "conv2": "codebook3/channel", "fc": "power4/channel"}
    delivery = applied(job, model, samples, formats)
    ort, aimet = (json.loads(delivery.artifacts[kind]) for kind in ("ort", "aimet"))
    assert ort["tensor_quant_overrides"] == {}
    assert ort["nodes_to_exclude"] == ["first"]
    assert [(one["name"], one["dtype"], one["bw"]) for one in aimet["param_encodings"]] == [
        ("conv1.weight", "FLOAT", 16)
    ]
    for document in (ort, aimet):
        notes = {note["tensor"]: note["note"] for note in document["notes"]}
        assert "codebook3/channel: left out" in notes["conv2.weight"]
        assert "power4/channel: left out" in notes["fc.weight"]

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

from pipeline.candidates import Candidates
from pipeline.results import unpack
from tests.pipeline.conftest import convnet

PAGE = Path(__file__).parents[2] / "docs" / "plan.md"


class Reader(CalibrationDataReader):
    def __init__(self, images: np.ndarray) -> None:
        self.batches = iter([{"image": images}])

    def get_next(self):
        return next(self.batches, None)


@pytest.fixture(scope="module")
def read_overrides():
    """The function that the page tells users to take."""
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    (body,) = (block for block in blocks if "def read_overrides" in block)
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
    request = {"budget": {"max_drop": 0.99}, "plan": {"version": 1, "layers": layers, "activations": rows}}
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


def test_a_dead_channel_has_the_scale_that_the_file_gives_it(job, trained, samples, quantized):
    """An integer kernel counts the bias in steps of it, and the scale of zeros alone is anybody's choice."""
    weights = {**trained, "conv1.weight": trained["conv1.weight"].copy(), "conv1.bias": trained["conv1.bias"].copy()}
    weights["conv1.weight"][3], weights["conv1.bias"][3] = 0, 0.004
    model = convnet(weights)
    activations = [(name, "uint8/tensor") for name in ("image", "r1", "r2")]
    formats = dict.fromkeys(("conv1", "conv2", "fc"), "int8/channel")
    delivery = applied(job, model, samples, formats, activations)
    ort, aimet = (json.loads(delivery.artifacts[kind]) for kind in ("ort", "aimet"))
    proto = onnx.ModelProto.FromString(delivery.artifacts["model"])
    values = initializers(proto)
    encodings = {one["name"]: one for one in aimet["param_encodings"]}
    for name in ("conv1.weight", "conv2.weight", "fc.weight"):
        unpacked = next(node for node in proto.graph.node if node.output[0] == name)
        scale = numpy_helper.to_array(values[unpacked.input[1]])
        assert np.array_equal(np.float32([one["scale"] for one in ort["tensor_quant_overrides"][name]]), scale)
        assert np.array_equal(np.float32(encodings[name]["scale"]), np.abs(scale))
    scale, codes = (
        numpy_helper.to_array(initializers(quantized(model, ort))[f"conv1.bias_quantized{part}"])[3]
        for part in ("_scale", "")
    )
    assert scale * codes == pytest.approx(0.004, rel=1e-4)


@pytest.mark.parametrize("rounding", ["gptq", "nearest"])
@pytest.mark.parametrize("format_", ["int2/channel", "int3/tensor", "int5/channel", "int4/channel/asymmetric"])
def test_every_stored_value_lies_on_the_grid_of_the_encodings(job, model, samples, rounding, format_):
    layers = [{"name": name, "format": format_} for name in ("conv1", "conv2", "fc")]
    request = {
        "budget": {"max_drop": 0.99},
        "weights": {"rounding": rounding},
        "plan": {"version": 1, "layers": layers},
    }
    run = job(model, samples, request)
    encodings = json.loads(run.run().artifacts["aimet"])["param_encodings"]
    _, certified = unpack(run.context.read("certify"))
    rounded = Candidates.unpack(certified["weights"].tobytes())
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
    # the only encoding of floats that AIMET takes, and with these members alone
    assert aimet["param_encodings"] == [{"name": "conv1.weight", "enc_type": "PER_TENSOR", "dtype": "FLOAT", "bw": 16}]
    for document in (ort, aimet):
        notes = {note["tensor"]: note["note"] for note in document["notes"]}
        assert "codebook3/channel: left out" in notes["conv2.weight"]
        assert "power4/channel: left out" in notes["fc.weight"]


def network_of(nodes, weights, x, y, output="y"):
    graph = helper.make_graph(
        [helper.make_node(type_, inputs, [out], name=f"{type_}_{out}", **more) for type_, inputs, out, more in nodes],
        "network",
        [helper.make_tensor_value_info("x", *x)],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, y)],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8).SerializeToString()


@pytest.fixture
def aimet(job):
    """`aimet(model, samples, formats, activations)`: the encodings, and their notes by tensor."""

    def run(model, samples, formats, activations=()):
        document = json.loads(applied(job, model, samples, formats, activations).artifacts["aimet"])
        return document, {note["tensor"]: note["note"] for note in document["notes"]}

    return run


def test_encodings_call_tensors_as_aimet_does_once_it_has_folded_batch_norm(aimet):
    """It keeps the name of the convolution's output; a name that its graph lacks makes it refuse the document."""
    norm = ["gain", "shift", "mean", "variance"]
    nodes = [
        ("Conv", ["x", "w1"], "c1", {"pads": [1] * 4}),
        ("BatchNormalization", ["c1", *norm], "b1", {}),
        ("Add", ["b1", "x"], "sum", {}),
        ("BatchNormalization", ["sum", *norm], "b2", {}),
        ("Relu", ["b2"], "r", {}),
        ("Conv", ["r", "w2"], "c2", {"pads": [1] * 4}),
        ("BatchNormalization", ["c2", *norm], "y", {}),
    ]
    generator = np.random.default_rng(0)
    weights = {name: generator.normal(size=(4, 4, 3, 3)) for name in ("w1", "w2")}
    weights |= {name: generator.uniform(0.5, 2, 4) for name in norm}
    model = network_of(nodes, weights, (TensorProto.FLOAT, ["N", 4, 6, 6]), ["N", 4, 6, 6])
    samples = {"x": generator.normal(size=(64, 4, 6, 6)).astype(np.float32)}
    formats = [(name, "uint8/tensor") for name in ("x", "b1", "sum", "r", "y")]
    document, notes = aimet(model, samples, {"w1": "int8/channel", "w2": "float32"}, formats)
    assert {one["name"] for one in document["activation_encodings"]} == {"x", "c1", "sum", "r", "y"}
    assert [one["name"] for one in document["param_encodings"]] == ["w1"]
    assert list(notes) == ["w1"]
    assert "fold BatchNorm" in notes["w1"]


def test_encodings_have_no_scales_along_an_axis_that_aimet_does_not_take(aimet):
    nodes = [
        ("Gather", ["table", "x"], "words", {}),
        ("MatMul", ["words", "inner"], "h", {}),
        ("Relu", ["h"], "r", {}),
        ("MatMul", ["outer", "r"], "m", {}),
        ("Transpose", ["m"], "steps", {"perm": [1, 0, 2]}),
        ("LSTM", ["steps", "W", "R"], "l", {"hidden_size": 3}),
        ("MatMul", ["l", "last"], "y", {}),
    ]
    generator = np.random.default_rng(0)
    shapes = {"table": (20, 6), "inner": (6, 5), "outer": (4, 7), "W": (1, 12, 5), "R": (1, 12, 3), "last": (3, 2)}
    weights = {name: generator.normal(size=shape) for name, shape in shapes.items()}
    model = network_of(nodes, weights, (TensorProto.INT64, ["N", 7]), [4, 1, "N", 2])
    samples = {"x": generator.integers(0, 20, (64, 7))}
    document, notes = aimet(model, samples, dict.fromkeys(shapes, "int8/channel"))
    assert [one["name"] for one in document["param_encodings"]] == ["inner", "last"]
    for name, type_ in {"table": "Gather", "outer": "MatMul", "W": "LSTM", "R": "LSTM"}.items():
        assert f"AIMET has no scales along this axis of a weight of {type_}: left out" in notes[name]
    activations = [("words", "uint8/tensor"), ("l", "uint8/tensor")]
    document, notes = aimet(model, samples, dict.fromkeys(shapes, "int8/tensor"), activations)
    assert {one["name"] for one in document["param_encodings"]} == set(shapes)
    assert [one["name"] for one in document["activation_encodings"]] == ["words"]
    assert "recurrent layer reads the same scale: left out" in notes["l"]


def test_encodings_leave_out_what_only_the_normalised_network_has(aimet):
    nodes = [
        ("Transpose", ["w"], "turned", {"perm": [1, 0]}),
        ("MatMul", ["x", "turned"], "y", {}),
    ]
    generator = np.random.default_rng(0)
    weights = {"w": generator.normal(size=(5, 6))}
    model = network_of(nodes, weights, (TensorProto.FLOAT, ["N", 6]), ["N", 5])
    samples = {"x": generator.normal(size=(64, 6)).astype(np.float32)}
    document, notes = aimet(model, samples, {"MatMul_y": "int8/channel"})
    assert document["param_encodings"] == []
    assert "no initializer of this name: left out" in next(iter(notes.values()))

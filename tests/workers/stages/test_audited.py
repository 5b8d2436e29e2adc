"""What is certified is read back first, and a file that is not as planned is never delivered."""

from __future__ import annotations

import json
from dataclasses import replace

import onnx
import pytest
from onnx import helper, numpy_helper

from workers.stages import audited as module
from workers.stages import measured
from workers.stages.audited import FileNotAsPlanned

LAYERS = ("conv1", "conv2", "fc")
WEIGHTS = {"version": 1, "layers": [{"name": name, "format": "int3/channel"} for name in LAYERS]}
ACTIVATIONS = {
    **WEIGHTS,
    "activations": [{"name": name, "format": "uint8/tensor"} for name in ("image", "r1", "r2")],
}


@pytest.mark.parametrize("plan", [WEIGHTS, ACTIVATIONS])
def test_the_plan_says_what_the_file_holds(job, model, samples, plan):
    found = job(model, samples, {"plan": plan, "weights": {"rounding": "nearest"}}).run()
    document = json.loads(found.artifacts["plan"])["audit"]
    assert (document["weights"], document["activations"]) == (3, 4 if "activations" in plan else 0)  # Flatten moves r2
    assert document["total_bytes"] == len(found.artifacts["model"])
    assert document["codes_bytes"] == sum(-(-3 * n // 8) for n in (12 * 9, 24 * 12 * 9, 2160))
    outputs = document["outputs"]
    assert outputs["samples"] == module.SAMPLES
    if "activations" not in plan:
        assert outputs == {"samples": 64, "equal": True, "largest_difference": 0.0, "relative_difference": 0.0}
    assert outputs["relative_difference"] < 0.05


def _tampered(change):
    """`exported` with another file."""
    real = measured.exported

    def other(*arguments):
        made = real(*arguments)
        file = onnx.ModelProto.FromString(made.file)
        change(file)
        return replace(made, file=file.SerializeToString())

    return other


def _other_bias(file):
    tensor = next(tensor for tensor in file.graph.initializer if tensor.name == "fc.bias")
    tensor.CopyFrom(numpy_helper.from_array(1 + numpy_helper.to_array(tensor), tensor.name))


def _more_rounding(file):
    file.graph.initializer.append(helper.make_tensor("scale", onnx.TensorProto.FLOAT, [], [0.5]))
    file.graph.initializer.append(helper.make_tensor("zero", onnx.TensorProto.UINT8, [], [0]))
    node = next(node for node in file.graph.node if "r2" in node.output)
    node.output[0] = "rounded"
    place = list(file.graph.node).index(node) + 1
    more = [
        helper.make_node("QuantizeLinear", ["rounded", "scale", "zero"], ["codes"]),
        helper.make_node("DequantizeLinear", ["codes", "scale", "zero"], ["r2"]),
    ]
    nodes = list(file.graph.node)
    del file.graph.node[:]
    file.graph.node.extend([*nodes[:place], *more, *nodes[place:]])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_other_bias, "the file's outputs differ from those of the simulated plan by"),
        (_more_rounding, "activations r2 are rounded, and the plan leaves them float32"),
    ],
)
def test_a_file_that_is_not_as_planned_is_not_delivered(job, model, samples, monkeypatch, change, says):
    monkeypatch.setattr("workers.stages.certify.exported", _tampered(change))
    with pytest.raises(FileNotAsPlanned, match=says):
        job(model, samples, {"plan": WEIGHTS, "weights": {"rounding": "nearest"}}).run()


def test_another_format_than_planned_is_found(job, model, samples, monkeypatch):
    real = measured.exported
    monkeypatch.setattr(
        "workers.stages.certify.exported", lambda *some: replace(real(*some), file=other.artifacts["model"])
    )
    other = job(model, samples, {"plan": WEIGHTS | {"layers": [
        {"name": name, "format": "int3/channel" if name != "conv2" else "int4/channel"} for name in LAYERS
    ]}, "weights": {"rounding": "nearest"}})  # fmt: skip
    with monkeypatch.context() as own:
        own.setattr("workers.stages.certify.exported", real)
        other = other.run()
    with pytest.raises(FileNotAsPlanned, match=r"conv2.weight is stored as int4/channel .*; planned was int3/channel"):
        job(model, samples, {"plan": WEIGHTS, "weights": {"rounding": "nearest"}}).run()

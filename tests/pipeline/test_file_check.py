"""What is certified is read back first, and a file that is not as planned is never delivered."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from pipeline import file_check as module
from pipeline.file_check import FileNotAsPlanned
from pipeline.plan_export import export_plan
from quantization.export.audit import audit

LAYERS = ("conv1", "conv2", "fc")
WEIGHTS = {"version": 1, "layers": [{"name": name, "format": "int3/channel"} for name in LAYERS]}


def with_activations(bits, *more):
    rows = [{"name": name, "format": f"uint{bits}/tensor"} for name in ("image", "r1", "r2", *more)]
    return {**WEIGHTS, "activations": rows}


@pytest.mark.parametrize("plan", [WEIGHTS, with_activations(8)])
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


@pytest.mark.parametrize("bits", [4, 16])
def test_what_only_moves_rounded_values_is_no_fault(job, model, samples, bits):
    """Flatten moves r2: at 4 bits its codes have no cap of their own, at 16 it is not rounded again."""
    found = job(model, samples, {"plan": with_activations(bits), "weights": {"rounding": "nearest"}}).run()
    stored = audit(found.artifacts["model"]).activations
    assert [one.bits for one in stored] == [bits] * (4 if bits == 4 else 3)


@pytest.mark.parametrize("plan", [WEIGHTS, with_activations(8, "rounded")])
def test_a_network_may_come_with_rounding_of_its_own(job, model, samples, plan):
    proto = onnx.ModelProto.FromString(model)
    _more_rounding(proto)
    found = job(proto.SerializeToString(), samples, {"plan": plan, "weights": {"rounding": "nearest"}}).run()
    assert json.loads(found.artifacts["plan"])["audit"]["activations"] == (6 if "activations" in plan else 1)


def _tampered(change):
    """`export_plan` with another file."""

    def other(*arguments, **options):
        made = export_plan(*arguments, **options)
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
        (_other_bias, "output .* of the file differs from that of the simulated plan by"),
        (_more_rounding, "activation r2 is rounded to 8 bits, and the plan leaves it float32"),
    ],
)
def test_a_file_that_is_not_as_planned_is_not_delivered(job, model, samples, monkeypatch, change, says):
    monkeypatch.setattr("pipeline.stages.certify.export_plan", _tampered(change))
    with pytest.raises(FileNotAsPlanned, match=says):
        job(model, samples, {"plan": WEIGHTS, "weights": {"rounding": "nearest"}}).run()


def test_another_format_than_planned_is_found(job, model, samples, monkeypatch):
    other = job(model, samples, {"plan": WEIGHTS | {"layers": [
        {"name": name, "format": "int3/channel" if name != "conv2" else "int4/channel"} for name in LAYERS
    ]}, "weights": {"rounding": "nearest"}})  # fmt: skip
    file = other.run().model

    def with_that_file(*arguments, **options):
        return replace(export_plan(*arguments, **options), file=file)

    monkeypatch.setattr("pipeline.stages.certify.export_plan", with_that_file)
    with pytest.raises(FileNotAsPlanned, match=r"conv2.weight is stored as int4/channel .*; planned was int3/channel"):
        job(model, samples, {"plan": WEIGHTS, "weights": {"rounding": "nearest"}}).run()


def test_products_that_are_packed_sum_in_another_order(job, samples):
    rng = np.random.default_rng(0)
    tensors = {"fc1": rng.standard_normal((64, 96)) / 8, "fc2": rng.standard_normal((96, 10)) / 8}
    graph = helper.make_graph(
        [
            helper.make_node("Flatten", ["image"], ["f"]),
            helper.make_node("MatMul", ["f", "fc1"], ["h"], "fc1"),
            helper.make_node("Relu", ["h"], ["r"]),
            helper.make_node("MatMul", ["r", "fc2"], ["logits"], "fc2"),
        ],
        "packed",
        [helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, ["N", 1, 8, 8])],
        [helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["N", 10])],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in tensors.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8).SerializeToString()
    request = {
        "budget": {"metric": "agreement", "max_drop": 0.5},
        "objective": "latency",
        "weights": {"formats": ["int4/block32"], "rounding": "nearest"},
        "latency_table": {name: {"int4/block32": 1.0} for name in tensors},
    }
    found = job(model, samples, request).run()
    operators = [node.op_type for node in onnx.ModelProto.FromString(found.artifacts["model"]).graph.node]
    assert operators.count("MatMulNBits") == 2
    outputs = json.loads(found.artifacts["plan"])["audit"]["outputs"]
    assert outputs["relative_difference"] < module.FLOAT_TOLERANCE

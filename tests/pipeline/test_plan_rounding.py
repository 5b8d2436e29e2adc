"""The weights of a whole plan are rounded anew: what is delivered, by which name, and that it is better."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pipeline.results import unpack
from planner.errors import ConstraintImpossible

PLAN = {"version": 1, "layers": [{"name": name, "format": "int2/channel"} for name in ("conv1", "conv2", "fc")]}


def delivered(job, model, samples, **weights):
    run = job(model, samples, {"budget": {"metric": "kl", "max_drop": 1.0}, "weights": weights, "plan": PLAN})
    delivery = run.run()
    return json.loads(delivery.artifacts["plan"]), delivery.artifacts["model"], run


def test_a_plan_loses_less_when_its_weights_know_of_each_other(job, model, samples):
    alone, file, _ = delivered(job, model, samples, refinement="none")
    together, refined, _ = delivered(job, model, samples)
    assert together["certificate"]["drop"] < alone["certificate"]["drop"]
    assert together["size_bytes"] == alone["size_bytes"]
    assert {layer["rounding"] for layer in alone["layers"]} == {"gptq"}
    assert {layer["rounding"] for layer in together["layers"]} == {"sequential gptq"}
    assert refined != file
    assert delivered(job, model, samples, refinement="sequential")[1] == refined


def test_a_weight_that_is_not_rounded_anew_says_why(job, model, samples):
    layers = [{"name": "conv1", "format": "float32"}, {"name": "conv2", "format": "float16"}, PLAN["layers"][2]]
    request = {"budget": {"metric": "kl", "max_drop": 1.0}, "plan": {**PLAN, "layers": layers}}
    plan = json.loads(job(model, samples, request).run().artifacts["plan"])
    assert [layer["note"] for layer in plan["layers"]] == [
        None,
        "not rounded anew for the errors of other layers: GPTQ does not round float16 anew",
        None,
    ]
    assert [layer["rounding"] for layer in plan["layers"]] == [None, "gptq", "sequential gptq"]


def test_nearest_rounding_is_left_alone_unless_it_is_asked_for(job, model, samples):
    plan, _, _ = delivered(job, model, samples, rounding="nearest")
    assert {layer["rounding"] for layer in plan["layers"]} == {"nearest: the request asks for it"}
    plan, _, _ = delivered(job, model, samples, rounding="nearest", refinement="sequential")
    assert {layer["rounding"] for layer in plan["layers"]} == {"sequential gptq"}


def test_the_exports_hold_the_scales_of_the_delivered_file(job, model, samples):
    _, file, run = delivered(job, model, samples)
    tensors = {
        tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.ModelProto.FromString(file).graph.initializer
    }
    _, certified = unpack(run.context.read("certify"))
    _, weights = unpack(certified["weights"].tobytes())
    scales = [array for name, array in weights.items() if name.endswith("/scale")]
    assert len(scales) == 3
    for scale in scales:
        assert any(tensor.shape == scale.shape and np.array_equal(tensor, scale) for tensor in tensors.values())


@pytest.mark.parametrize(
    "format_", ["float16", "int4/block16/asymmetric", "codebook3/channel/outliers100", "power4/channel"]
)
def test_every_format_goes_through_a_whole_job(job, model, samples, format_):
    request = {
        "budget": {"max_drop": 0.5},
        "weights": {"formats": [format_, "int2/channel"]},
        "layers": {"conv1": {"formats": ["hadamard4/channel"]}},
    }
    delivery = job(model, samples, request).run()
    plan = json.loads(delivery.artifacts["plan"])
    assert plan["outcome"] == "met"
    sites = {site["name"]: site for site in json.loads(delivery.artifacts["sensitivity"])["sites"]}
    offered = {candidate["format"] for candidate in sites["conv2"]["candidates"]}
    assert "int2/channel" in offered
    assert len(offered) == 3
    assert len(delivery.artifacts["model"]) == plan["size_bytes"]


def test_a_plan_that_breaks_the_network_is_measured_all_the_same(job):
    """What the rounding of `fc1` changes is blown up to 1e30: there is nothing to round for, and yet a result."""
    generator = np.random.default_rng(0)
    hidden = generator.normal(0, 1, (16, 24))
    images = np.abs(generator.normal(1, 0.3, (200, 16))).astype(np.float32)
    nodes = [
        ("MatMul", ["x", "fc1"], ["h"]),
        ("MatMul", ["x", "twice"], ["exact"]),
        ("Add", ["h", "h"], ["doubled"]),
        ("Sub", ["doubled", "exact"], ["error"]),
        ("Abs", ["error"], ["size"]),
        ("Sub", ["size", "small"], ["over"]),
        ("Relu", ["over"], ["noticed"]),
        ("Mul", ["noticed", "huge"], ["blown"]),
        ("Add", ["h", "blown"], ["r"]),
        ("MatMul", ["r", "fc2"], ["y"]),
    ]
    weights = {"fc1": hidden, "twice": 2 * hidden, "fc2": generator.normal(0, 1, (24, 5)), "small": 0.01, "huge": 1e30}
    graph = helper.make_graph(
        [helper.make_node(operator, inputs, outputs, name=outputs[0]) for operator, inputs, outputs in nodes],
        "blown",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 5])],
        [numpy_helper.from_array(np.asarray(array, np.float32), name) for name, array in weights.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    formats = {"fc1": "int2/channel", "fc2": "int2/channel", "twice": "float32"}
    plan = {"version": 1, "layers": [{"name": name, "format": format_} for name, format_ in formats.items()]}
    delivery = job(proto.SerializeToString(), {"x": images}, {"budget": {"metric": "agreement"}, "plan": plan}).run()
    delivered = json.loads(delivery.artifacts["plan"])
    assert delivered["outcome"] == "not_met"
    layers = [layer for layer in delivered["layers"] if layer["format"] != "float32"]
    assert {layer["rounding"] for layer in layers} == {"gptq"}
    assert {layer["note"] for layer in layers} == {
        "not rounded anew for the errors of other layers: the errors of this plan drive a layer to infinity or to no "
        "number"
    }


def test_a_weight_without_a_format_is_refused_before_anything_is_slow(job, model, samples):
    request = {"weights": {"bits": [4]}, "activations": {"bits": [8]}, "layers": {"fc": {"min_bits": 8}}}
    run = job(model, samples, request)
    with pytest.raises(ConstraintImpossible, match="fc asks for at least 8 bits, and weights has no format of as many"):
        run.run()
    assert "calibrate" not in run.ran


def test_samples_that_are_all_alike_are_no_reason_to_fail(job, model, samples):
    """No input of any layer varies about its mean."""
    blank = {name: np.repeat(array[:1], 200, axis=0) for name, array in samples.items()}
    request = {
        "plan": {"version": 1, "layers": [{"name": n, "format": "int3/channel"} for n in ("conv1", "conv2", "fc")]}
    }
    assert job(model, blank, request).run().outcome in ("met", "not_met")

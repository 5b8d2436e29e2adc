"""A layer and the value that it makes may have one name in the file; in a plan each has its own."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from quantization.export.audit import audit

REQUEST = {"budget": {"metric": "cosine", "max_drop": 0.05}, "sensitivity": {"method": "cross_layer"}}
ACTIVATIONS = {**REQUEST, "activations": {"bits": [8]}, "weights": {"bits": [4, 8]}}


def draw(*shape: int) -> np.ndarray:
    return np.random.default_rng(shape).standard_normal(shape).astype(np.float32)


@pytest.fixture(scope="module")
def named() -> bytes:
    """Every node is called like what it makes, one of them like the graph's output; a tied weight has two. And
    one tensor is called as the activation of another would be."""
    nodes = [
        helper.make_node("Gemm", ["x", "hidden.weight"], ["hidden"], name="hidden"),
        helper.make_node("Sigmoid", ["hidden"], ["s"], name="s"),
        helper.make_node("MatMul", ["s", "tied"], ["first"], name="first"),
        helper.make_node("Sigmoid", ["first"], ["first (activation)"], name="sigmoid"),
        helper.make_node("MatMul", ["first (activation)", "tied"], ["second"], name="second"),
        helper.make_node("Sigmoid", ["second"], ["t"], name="t"),
        helper.make_node("Gemm", ["t", "mean.weight"], ["mean"], name="mean"),
        helper.make_node("Sigmoid", ["mean"], ["share"], name="share"),
    ]
    weights = {"hidden.weight": draw(6, 8), "tied": draw(8, 8), "mean.weight": draw(8, 3)}
    graph = helper.make_graph(
        nodes,
        "named",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 6])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 3]) for name in ("mean", "share")],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def test_a_whole_job_and_its_plan_again(job, named) -> None:
    samples = {"x": draw(300, 6)}
    searched = job(named, samples, ACTIVATIONS).run()
    plan = json.loads(searched.artifacts["plan"])
    names = {row["name"]: row["tensors"][0] for row in plan["activations"]}
    own = {"x", "s", "first (activation)", "t", "share"}
    shared = {f"{name} (activation)": name for name in ("hidden", "second", "mean")}
    assert names == {name: name for name in own} | shared | {"first (activation) (activation)": "first"}
    assert not names.keys() & {row["name"] for row in plan["layers"]}
    rounded = {activation.name: activation for activation in audit(searched.artifacts["model"]).activations}
    for row in plan["activations"]:
        assert rounded[row["tensors"][0]].scale == pytest.approx(row["scale"])
        assert rounded[row["tensors"][0]].zero_point == row["zero_point"]
    assert {"mean", "first"} <= json.loads(searched.artifacts["ort"])["tensor_quant_overrides"].keys()
    assert {"mean", "first"} <= {row["name"] for row in json.loads(searched.artifacts["aimet"])["activation_encodings"]}

    applied = job(named, samples, {**REQUEST, "sensitivity": {}, "plan": plan}).run()
    assert applied.artifacts["model"] == searched.artifacts["model"]
    assert json.loads(applied.artifacts["plan"])["activations"][0]["name"] in names


def test_both_names_are_heard(job, named) -> None:
    layers = {"mean": {"bits": [8]}, "mean (activation)": {"keep": True}, "second": {"bits": [4]}}
    result = job(named, {"x": draw(300, 6)}, {**ACTIVATIONS, "layers": layers}).run()
    plan = json.loads(result.artifacts["plan"])
    formats = {row["name"]: row["format"] for row in plan["layers"] + plan["activations"]}
    assert formats["mean"].startswith("int8")
    assert formats["mean (activation)"] == "float32"
    assert "mean" not in {activation.name for activation in audit(result.artifacts["model"]).activations}
    notes = json.loads(result.artifacts["ort"])["notes"]
    assert any(note["tensor"] == "mean" and "float32 in the plan" in note["note"] for note in notes)

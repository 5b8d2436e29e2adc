"""The opset of the result: who decides it, what it costs to ask for another one, and what is refused at once."""

from __future__ import annotations

import json

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper

from network.normalise import load
from pipeline.candidates import Candidates
from pipeline.context import stage_keys
from pipeline.results import unpack
from pipeline.table import TABLE
from quantization.export.export import simulate
from quantization.export.leftovers import leftovers
from tests.pipeline.conftest import configured, convnet

PLAN = {"version": 1, "layers": [{"name": name, "format": "int4/channel"} for name in ("conv1", "conv2", "fc")]}


@pytest.mark.parametrize(
    ("members", "opset"),
    [
        ({}, 25),
        ({"opset": 18}, 18),
        ({"target": "storage-only", "opset": 22}, 22),
        ({"target": "integer-w8-a8"}, 21),
        ({"target": "integer-w8-a8", "opset": 19}, 19),
    ],
)
def test_the_request_decides_and_else_the_target(members, opset):
    assert configured(**members).resolve.space.export.opset == opset


@pytest.mark.parametrize("latency", [{}, {"limits": {"max_latency_ms": 5.0}}])
def test_no_analysis_depends_on_it(latency):
    def keys(opset):
        config = configured(opset=opset, **latency)
        return stage_keys(TABLE.needed(config), config, {"model": "m", "dataset": "d"})

    default, older = keys(None), keys(18)
    changed = {name for name in default if default[name] != older[name]}
    assert changed == {"resolve", "plan", "certify"} | ({"latency"} if latency else set())


@pytest.mark.parametrize(
    ("members", "says"),
    [
        ({"target": "integer-w8-a8", "opset": 22}, "opset asks for 22, and the target integer-w8-a8 takes 21 at most"),
        (
            {"opset": 20, "activations": {"bits": [8, 16]}},
            "activations.bits asks for 16 bits, .* to have opset 20; take",
        ),
        (
            {
                "opset": 20,
                "plan": {
                    **PLAN,
                    "activations": [{"name": name, "format": "uint16/tensor"} for name in ("image", "r1", "r2")],
                },
            },
            "plan.activations, image, asks for 16 bits, which ONNX has from opset 21 on, .* opset 20; take 8 bits",
        ),
    ],
)
def test_what_the_opset_or_the_target_lacks_is_refused_before_anything_is_slow(job, model, samples, members, says):
    run = job(model, samples, members)
    with pytest.raises(ValueError, match=says) as refused:
        run.run()
    assert type(refused.value).code == "constraint_impossible"
    assert set(run.ran) <= {"admit", "normalise"}


@pytest.fixture
def newer_model(model):
    """The network with an operator after it that means nothing before opset 19."""
    proto = onnx.ModelProto.FromString(model)
    proto.graph.node.append(helper.make_node("Pad", ["logits", "around"], ["g"], name="wrap", mode="wrap"))
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array([0, 1, 0, 0]), "around"))
    proto.graph.output[0].CopyFrom(helper.make_tensor_value_info("g", onnx.TensorProto.FLOAT, ["N", None]))
    proto.opset_import[0].version = 19
    return proto.SerializeToString()


def test_operators_that_the_opset_does_not_have_are_named_before_anything_is_slow(job, newer_model, samples):
    for members in ({"opset": 18}, {"opset": 18, "plan": PLAN}):
        run = job(newer_model, samples, members)
        with pytest.raises(
            ValueError, match=r"Pad with mode = wrap .node 'wrap'.. The oldest opset .* is 19"
        ) as refused:
            run.run()
        assert type(refused.value).code == "opset_not_reachable"
        assert run.ran == ["admit", "normalise"]


@pytest.mark.parametrize("opset", [18, 21, 25])
def test_the_file_has_the_opset_and_computes_what_the_plan_says(job, model, samples, opset):
    run = job(model, samples, {"opset": opset, "plan": PLAN, "weights": {"rounding": "nearest"}})
    file = run.run().artifacts["model"]
    proto = onnx.ModelProto.FromString(file)
    assert {entry.version for entry in proto.opset_import if not entry.domain} == {opset}
    assert proto.ir_version == {18: 8, 21: 10, 25: 13}[opset]
    onnx.checker.check_model(proto, full_check=True)

    network = load(run.context.read("normalise"), opset)
    _, arrays = unpack(run.context.read("certify"))
    rounded = Candidates.unpack(arrays["weights"].tobytes()).weights
    weights = {site.weight: one for site in network.sites for one in rounded[site.name]}
    assert set(weights) == {"conv1.weight", "conv2.weight", "fc.weight"}
    images = {"image": samples["image"][:64]}
    expected, result = (
        onnxruntime.InferenceSession(one, providers=["CPUExecutionProvider"]).run(None, images)[0]
        for one in (simulate(network, weights, halves=leftovers(network)), file)
    )
    np.testing.assert_array_equal(result, expected)


def test_an_operator_is_expanded_in_the_file_alone(job, trained, samples):
    """The analysis is that of the operator itself, whichever opset is asked for first."""
    proto = onnx.ModelProto.FromString(
        convnet(trained, (helper.make_node("Gelu", ["logits"], ["g"], name="gelu"),), "g")
    )
    proto.opset_import[0].version = 20
    request = {"budget": {"metric": "top1", "max_drop": 0.05}, "weights": {"bits": [3, 8], "rounding": "nearest"}}
    found = {}
    for order in ((18, None), (None, 18)):
        results: dict[str, bytes] = {}
        for opset in order:
            run = job(proto.SerializeToString(), samples, {**request, "opset": opset}, results)
            found[order, opset] = run.run().artifacts["model"]
    assert found[(18, None), 18] == found[(None, 18), 18]
    assert found[(18, None), None] == found[(None, 18), None]
    nodes = [onnx.ModelProto.FromString(found[(18, None), opset]).graph.node for opset in (18, None)]
    assert [
        ["Gelu" in [node.op_type for node in graph], "Erf" in [node.op_type for node in graph]] for graph in nodes
    ] == [
        [False, True],
        [True, False],
    ]


def test_another_opset_repeats_no_analysis_and_finds_the_same_plan(job, model, samples):
    request = {"budget": {"metric": "top1", "max_drop": 0.02}, "weights": {"bits": [4, 8], "rounding": "nearest"}}
    results: dict[str, bytes] = {}
    newest = job(model, samples, request, results).run()
    again = job(model, samples, {**request, "opset": 18}, results)
    older = again.run()
    assert again.ran == ["resolve", "plan", "certify"]
    assert older.outcome == newest.outcome == "met"
    formats, of_older = (
        [row["format"] for row in json.loads(one.artifacts["plan"])["layers"]] for one in (newest, older)
    )
    assert of_older == formats

"""A job with a metric graph: from the call to the certificate, and what depends on the graph."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import onnxruntime
import pytest
from jsonschema import Draft202012Validator
from onnx import TensorProto, helper, numpy_helper

import pipeline
from app.errors import AppError
from app.schemas.plan import plan_schema_text
from evaluation.errors import DatasetWrongNames, MetricGraphInvalid
from evaluation.splits import split
from pipeline.events import StageEnded
from pipeline.store import MemoryStore
from tests.document_schemas import check_document
from tests.evaluation.own_graphs import accuracy, graph

REQUEST = {
    "budget": {"max_drop": 0.05, "kind": "relative"},
    "weights": {"bits": [2, 8], "rounding": "nearest"},
    "sensitivity": {"method": "quantization_error"},
}
SAMPLES = 120


@pytest.fixture(scope="module")
def network() -> bytes:
    generator = np.random.default_rng(0)
    shapes = {"w1": (6, 12), "w2": (12, 4), "w3": (12, 3)}
    weights = [numpy_helper.from_array(generator.standard_normal(s).astype(np.float32), n) for n, s in shapes.items()]
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "w2"], ["scores"]),
        helper.make_node("MatMul", ["r", "w3"], ["boxes"]),
    ]
    proto = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 6])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", n]) for name, n in (("scores", 4), ("boxes", 3))],
        weights,
    )
    return helper.make_model(proto, opset_imports=[helper.make_opsetid("", 18)], ir_version=8).SerializeToString()


@pytest.fixture(scope="module")
def samples(network) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(1)
    x = generator.standard_normal((SAMPLES, 6)).astype(np.float32)
    labels = run(network, x).argmax(1)
    return {"x": x, "labels": labels, "worth": generator.uniform(1, 2, SAMPLES)}


def run(model: bytes, x: np.ndarray) -> np.ndarray:
    return onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"]).run(["scores"], {"x": x})[0]


def worth(name: str = "worth") -> bytes:
    """What a right answer is worth, an array of the data; the network's own input counts nothing."""
    nodes = [
        helper.make_node("ArgMax", ["scores"], ["top"], axis=1, keepdims=0),
        helper.make_node("Equal", ["top", "labels"], ["same"]),
        helper.make_node("Cast", ["same"], ["right"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["right", name], ["gain"]),
        helper.make_node("ReduceMean", ["x", "axis"], ["mean"], keepdims=0),
        helper.make_node("Sub", ["mean", "mean"], ["nothing"]),
        helper.make_node("Add", ["gain", "nothing"], ["score"]),
    ]
    inputs: list[Any] = [
        ("scores", TensorProto.FLOAT, ["N", 4]),
        ("labels", TensorProto.INT64, ["N"]),
        (name, TensorProto.FLOAT, ["N"]),
        ("x", TensorProto.FLOAT, ["N", 6]),
    ]
    return graph(nodes, inputs, constants={"axis": np.array([1])})


def test_a_job_keeps_a_budget_in_the_metric_and_what_else_takes_it(network, samples):
    cache, events = MemoryStore(), []

    def ran() -> list[str]:
        stages = [event.stage for event in events if isinstance(event, StageEnded) and event.ran]
        events.clear()
        return stages

    result = pipeline.plan(network, samples, REQUEST, metric=worth(), cache=cache, progress=events.append)
    Draft202012Validator(json.loads(plan_schema_text())).validate(result.plan)
    check_document("FrontierDocument", result.frontier)
    check_document("SensitivityDocument", result.sensitivity)
    ran()
    certificate = result.certificate
    assert result.outcome == "met"
    assert certificate["metric"] == "own"
    assert [blind["null"] for blind in certificate["blind_to"]] == ["output boxes"]
    # the certificate is what anybody measures on the held-out samples
    held_out = split(SAMPLES, 0, samples["labels"]).held_out
    expected = [
        (samples["worth"] * (run(model, samples["x"]).argmax(1) == samples["labels"]))[held_out].mean()
        for model in (network, result.model)
    ]
    assert [certificate["float_value"], certificate["quantized_value"]] == pytest.approx(expected, rel=1e-6)
    assert certificate["drop"] == pytest.approx(1 - expected[1] / expected[0], abs=1e-6)
    assert all(evaluated["fraction"] == 1 for evaluated in result.plan["search"]["evaluated"])

    # the same graph repeats nothing, and one that leaves an array unread is refused before anything is done again
    again = pipeline.plan(network, samples, REQUEST, metric=worth(), cache=cache, progress=events.append)
    assert (again.artifacts, ran()) == (result.artifacts, [])
    with pytest.raises(DatasetWrongNames, match="'worth', which are no input of the network"):
        pipeline.plan(network, samples, REQUEST, metric=accuracy(), cache=cache, progress=events.append)
    assert ran() == []

    applied = pipeline.apply(network, result.plan, samples, metric=worth(), cache=cache)
    assert (applied.model, applied.certificate["drop"]) == (result.model, certificate["drop"])
    with pytest.raises(AppError, match="give it as the argument metric") as refused:
        pipeline.apply(network, result.plan, samples)
    assert refused.value.code == "budget_invalid"

    certified = pipeline.certify(network, result.model, samples, {"budget": REQUEST["budget"]}, metric=worth())
    values = [run(model, samples["x"]).argmax(1) == samples["labels"] for model in (network, result.model)]
    assert certified.certificate["quantized_value"] == pytest.approx((samples["worth"] * values[1]).mean(), rel=1e-6)


def test_another_metric_takes_the_place_of_a_graph(network, samples):
    data = {name: samples[name] for name in ("x", "labels")}
    cache, events = MemoryStore(), []
    pipeline.plan(network, data, REQUEST, metric=accuracy(kind=TensorProto.INT32), cache=cache)
    result = pipeline.plan(network, data, REQUEST, metric=accuracy(), cache=cache, progress=events.append)
    # another graph is measured and searched with anew, and repeats no analysis
    ran = [event.stage for event in events if isinstance(event, StageEnded) and event.ran]
    assert ran == ["claims", "plan", "certify"]
    applied = pipeline.apply(network, result.plan, data, {"budget": {"metric": "top1"}})
    assert applied.certificate["metric"] == "top1"
    assert applied.plan["request"]["budget"]["metric_id"] is None


def test_arrays_that_nothing_reads_stay_refused(network, samples):
    with pytest.raises(DatasetWrongNames, match="not an input: 'worth'"):
        pipeline.plan(network, samples, REQUEST)
    with pytest.raises(DatasetWrongNames, match="'worth', which are no input of the network"):
        pipeline.certify(network, network, samples, metric=accuracy())
    with pytest.raises(DatasetWrongNames, match="not an input: 'worth'"):
        pipeline.certify(network, network, samples)


def test_graphs_that_cannot_be_measured_end_the_job_before_its_analysis(network, samples):
    events: list[Any] = []
    for metric, words in (
        (b"no graph", "is not ONNX"),
        (
            worth("prize"),
            "input 'prize' of the metric graph is nothing that it can read; .* in the data 'labels', 'worth'",
        ),
    ):
        with pytest.raises(MetricGraphInvalid, match=words) as refused:
            pipeline.plan(network, samples, REQUEST, metric=metric, progress=events.append)
        assert refused.value.code == "metric_graph_invalid"
    assert "calibrate" not in [event.stage for event in events if isinstance(event, StageEnded)]


def test_without_data_a_graph_measures_against_the_float_network(network):
    nodes = [
        helper.make_node("Sub", ["scores", "reference.scores"], ["difference"]),
        helper.make_node("ReduceL2", ["difference", "axis"], ["score"], keepdims=0),
    ]
    inputs: list[Any] = [(name, TensorProto.FLOAT, ["N", 4]) for name in ("scores", "reference.scores")]
    metric = graph(nodes, inputs, constants={"axis": np.array([1])})
    budget = {"max_drop": 0.1, "kind": "of_null", "options": {"higher_is_better": False}}
    result = pipeline.plan(network, None, {**REQUEST, "budget": budget}, metric=metric)
    assert result.outcome == "met"
    assert result.certificate["float_value"] == 0
    assert 0 < result.certificate["drop"] <= 0.1
    assert result.certificate["claims"][0]["options"] == {"higher_is_better": False}

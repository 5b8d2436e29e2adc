"""What a job measures: the uploaded file is the reference, every output counts, and blind metrics are replaced."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from evaluation.errors import DatasetError, MetricNotApplicable
from network.normalise import dump
from pipeline.damage import damage_loss
from pipeline.plan_evaluation import Comparison
from pipeline.reference import runner_of
from pipeline.results import unpack
from pipeline.table import TABLE

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
SAMPLES, FEATURES = 120, 6

Shape = Sequence[int | str]


def network(
    nodes: list[onnx.NodeProto],
    outputs: dict[str, tuple[int, Shape]],
    constants: dict[str, np.ndarray] | None = None,
    seed: int = 0,
    classes: int = 5,
) -> bytes:
    """`h = relu(x w)` and `logits = h head`, which are large, then these nodes."""
    generator = np.random.default_rng(seed)
    weights = {
        "w": generator.normal(size=(FEATURES, 8)).astype(np.float32),
        "head": (4 * generator.normal(size=(8, classes))).astype(np.float32),
        **(constants or {}),
    }
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["z"]),
            helper.make_node("Relu", ["z"], ["h"]),
            helper.make_node("MatMul", ["h", "head"], ["logits"]),
            *nodes,
        ],
        "claims",
        [helper.make_tensor_value_info("x", FLOAT, ["N", FEATURES])],
        [helper.make_tensor_value_info(name, dtype, shape) for name, (dtype, shape) in outputs.items()],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8).SerializeToString()


LOGITS = network([], {"logits": (FLOAT, ["N", 5])})
# classes, and numbers of quite another size
TWO = network(
    [helper.make_node("MatMul", ["h", "wide"], ["boxes"])],
    {"logits": (FLOAT, ["N", 5]), "boxes": (FLOAT, ["N", 3])},
    {"wide": np.random.default_rng(9).normal(0, 300, (8, 3)).astype(np.float32)},
)


@pytest.fixture
def x() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(SAMPLES, FEATURES)).astype(np.float32)


def outputs_of(model: bytes, x: np.ndarray) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {"x": x}), strict=True))


def run_until(run, last: str) -> bytes:
    """What a stage writes, once all stages before it have run."""
    for stage in TABLE.needed(run.config):
        run.context.run(stage, getattr(run.config, stage.name))
        if stage.name == last:
            return run.results[run.keys[last]]
    raise AssertionError(f"there is no stage {last}")


def until(run, last: str) -> dict:
    return unpack(run_until(run, last))[0]


@pytest.fixture
def claimed(job, x):
    """`claimed(model, request, **arrays)`: the document of the stage `claims`, its claims by their first output."""

    def run(model: bytes, request: dict | None = None, **arrays: np.ndarray) -> tuple[dict, dict[str, dict]]:
        document = until(job(model, {"x": x, **arrays}, request), "claims")
        return document, {claim["outputs"][0]: claim for claim in document["claims"]}

    return run


def predicted(model: bytes, x: np.ndarray) -> np.ndarray:
    return outputs_of(model, x)["logits"].argmax(1).astype(np.int64)


def test_classes_with_labels_are_measured_by_them(claimed, x):
    document, claims = claimed(LOGITS, labels=predicted(LOGITS, x))
    assert [claim["metric"] for claim in claims.values()] == ["top1"]
    assert document["blind_to"] == []
    assert all(min(nulls.values()) > 0.01 for nulls in document["nulls"])


def always(first: int, model: bytes) -> bytes:
    """The network with a bias that makes one class win nearly always."""
    proto = onnx.ModelProto.FromString(model)
    bias = np.zeros(5, np.float32)
    bias[first] = 60
    proto.graph.initializer.append(numpy_helper.from_array(bias, "bias"))
    proto.graph.node[2].output[0] = "unbiased"
    proto.graph.node.append(helper.make_node("Add", ["unbiased", "bias"], ["logits"]))
    return proto.SerializeToString()


def test_accuracy_of_a_class_that_nearly_all_samples_have_is_replaced(claimed, x):
    model = always(2, LOGITS)
    labels = np.full(SAMPLES, 2, np.int64)
    labels[::40] = 1
    document, claims = claimed(model, {"budget": {"max_drop": 0.05}}, labels=labels)
    (claim,) = claims.values()
    assert claim["metric"] == "explained"
    assert "agreement would not tell the network from one that knows nothing" in claim["reason"]
    assert document["blind_to"] == []


def test_a_blind_metric_that_is_asked_for_is_named(claimed, x):
    model, labels = always(2, LOGITS), np.full(SAMPLES, 2, np.int64)
    document, claims = claimed(model, {"budget": {"metric": "top1", "max_drop": 0.05}}, labels=labels)
    (claim,) = claims.values()
    assert (claim["metric"], claim["reason"]) == ("top1", "as requested")
    assert {blind["null"] for blind in document["blind_to"]} == {
        "the outputs of other samples",
        "the mean outputs",
        "output logits",
    }
    assert all(blind["drop"] <= 0.05 for blind in document["blind_to"])


def test_what_nobody_can_see_stands_in_the_certificate(job, x):
    model, labels = always(2, LOGITS), np.full(SAMPLES, 2, np.int64)
    request = {"budget": {"metric": "top1", "max_drop": 0.05}, "weights": {"bits": [2, 8]}}
    certificate = json.loads(job(model, {"x": x, "labels": labels}, request).run().artifacts["plan"])["certificate"]
    assert "output logits" in {blind["null"] for blind in certificate["blind_to"]}
    assert "It cannot see" in certificate["statement"]


def test_every_output_gets_a_claim_of_its_own(claimed):
    document, claims = claimed(TWO)
    assert {name: claim["metric"] for name, claim in claims.items()} == {"logits": "agreement", "boxes": "explained"}
    assert document["blind_to"] == []


def test_an_output_that_weighs_nothing_is_not_measured_and_that_is_said(claimed):
    document, claims = claimed(TWO, {"outputs": {"boxes": {"weight": 0}}})
    assert list(claims) == ["logits"]
    assert "output boxes" in {blind["null"] for blind in document["blind_to"]}


def test_outputs_have_metrics_and_budgets_of_their_own(claimed):
    request = {
        "budget": {"metric": "cosine"},
        "outputs": {"boxes": {"metric": "explained", "max_drop": 0.2, "options": {"axis": 1}}},
    }
    _, claims = claimed(TWO, request)
    assert {name: claim["metric"] for name, claim in claims.items()} == {"logits": "cosine", "boxes": "explained"}
    assert {name: claim["max_drop"] for name, claim in claims.items()} == {"logits": None, "boxes": 0.2}


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ({"outputs": {"bxes": {"weight": 2.0}}}, ["'bxes'", "'logits', 'boxes'"]),
        ({"outputs": {"boxes": {"weight": 0}, "logits": {"weight": 0}}}, ["no output is left", "weight above 0"]),
        ({"outputs": {"boxes": {"metric": "same"}}}, ["same", "'boxes'"]),
        ({"outputs": {"boxes": {"metric": "cosine", "options": {"k": 3}}}}, ["cosine has no option k"]),
    ],
)
def test_what_outputs_cannot_have(job, x, request_, words):
    run = job(TWO, {"x": x}, request_)
    with pytest.raises(MetricNotApplicable) as refused:
        until(run, "claims")
    for word in words:
        assert word in str(refused.value)


@pytest.mark.parametrize(
    ("nodes", "outputs", "constants"),
    [
        ([helper.make_node("ArgMax", ["logits"], ["class"], axis=1, keepdims=0)], {"class": (INT64, ["N"])}, {}),
        (
            [helper.make_node("TopK", ["logits", "k"], ["best", "class"], axis=1)],
            {"best": (FLOAT, ["N", 2]), "class": (INT64, ["N", 2])},
            {"k": np.array([2], np.int64)},
        ),
    ],
)
def test_damage_is_looked_for_at_what_outputs_are_picked_from(job, x, nodes, outputs, constants):
    run = job(network(nodes, outputs, constants), {"x": x})
    document = until(run, "claims")
    inputs, reference = run.context.workspace.inputs(run.config.reference), run.context.workspace.reference()
    assert [fact.name for fact in reference.facts] == list(outputs)
    assert "logits" in [fact.name for fact in reference.values]
    loss = damage_loss(inputs.network, reference.values, run.config.plan.damage)
    assert loss.outputs == ("logits",)
    metrics = {claim["outputs"][0]: claim["metric"] for claim in document["claims"]}
    assert metrics["class"] == "same"


# two boxes for each sample, far apart, and the scores of two classes, one of which may be found
SUPPRESSED = network(
    [
        helper.make_node("Reshape", ["logits", "as_scores"], ["s"]),
        helper.make_node("Sigmoid", ["s"], ["scores"]),
        helper.make_node("Shape", ["x"], ["n"], start=0, end=1),
        helper.make_node("Concat", ["n", "two"], ["n_two"], axis=0),
        helper.make_node("Concat", ["n_two", "four"], ["n_two_four"], axis=0),
        helper.make_node("Expand", ["corners", "n_two_four"], ["all_corners"]),
        helper.make_node("NonMaxSuppression", ["all_corners", "scores", "most", "iou", "least"], ["found"]),
    ],
    {"found": (INT64, ["K", 3])},
    {
        "as_scores": np.array([-1, 2, 2], np.int64),
        "two": np.array([2], np.int64),
        "four": np.array([4], np.int64),
        "corners": np.array([[[0, 0, 1, 1], [5, 5, 6, 6]]], np.float32),
        "most": np.array([2], np.int64),
        "iou": np.array([0.5], np.float32),
        "least": np.array([0.9], np.float32),
    },
    classes=4,
)


def test_more_rows_for_one_sample_than_for_another(job, x):
    """What a NonMaxSuppression finds: rows are filled up, and two networks that find other numbers are compared."""
    run = job(SUPPRESSED, {"x": x}, {"weights": {"bits": [2, 3, 8]}, "budget": {"max_drop": 0.2}})
    (claim,) = until(run, "claims")["claims"]
    reference = run.context.workspace.reference()
    found = reference.outputs["found"]
    assert (found == -1).any(), "some samples have fewer"
    assert claim["metric"] == "same"
    assert claim["padded"]
    inputs = run.context.workspace.inputs(run.config.reference)
    loss = damage_loss(inputs.network, reference.values, run.config.plan.damage)
    assert loss.outputs == ("scores",)
    assert run.run().outcome in ("met", "not_met")


def test_the_uploaded_file_is_the_reference_and_not_the_rewritten_one(job, x):
    """A rewriting that went wrong in spite of its proof: nothing is compared with it."""
    other = job(network([], {"logits": (FLOAT, ["N", 5])}, seed=5), {"x": x})
    rewritten = run_until(other, "normalise")
    run = job(LOGITS, {"x": x})
    run_until(run, "normalise")
    run.results[run.keys["normalise"]] = rewritten
    until(run, "claims")
    work = run.context.workspace
    inputs, reference = work.inputs(run.config.reference), work.reference()
    samples = inputs.splits.search[: reference.samples]
    expected = outputs_of(LOGITS, x[samples])["logits"]
    np.testing.assert_allclose(reference.outputs["logits"], expected, rtol=1e-4, atol=1e-5)

    budget = run.config.claims.budget
    compare = Comparison(run.context, inputs, samples, work.claims(), budget.kind, reference.outputs)

    def drop(file: bytes) -> float:
        return compare(runner_of(run.context, inputs, file)).drop(budget.kind, budget.max_drop)

    assert drop(LOGITS) == 0
    assert drop(dump(inputs.network)) > 0.2, "the network that was swapped in"


def test_labels_of_one_output_alone(claimed, x):
    right = predicted(TWO, x)
    _, claims = claimed(TWO, **{"labels.logits": right})
    assert {name: claim["metric"] for name, claim in claims.items()} == {"logits": "top1", "boxes": "explained"}


@pytest.mark.parametrize(
    ("arrays", "code", "words"),
    [
        ({"labels": np.arange(SAMPLES) % 5 + 1}, "dataset_labels_out_of_range", ["0 to 4", "subtract 1"]),
        ({"labels": np.ones((SAMPLES, 4), np.int64)}, "metric_not_applicable", ["[54, 4]", "'logits' [54, 5]"]),
        ({"labels.logits": np.full(SAMPLES, 9)}, "dataset_labels_out_of_range", ["0 to 4"]),
        ({"labels.boxes": np.ones((SAMPLES, 2), np.int64)}, "metric_not_applicable", ["'labels.boxes'", "'boxes'"]),
    ],
)
def test_labels_that_fit_nothing_are_not_left_out_in_silence(job, x, arrays, code, words):
    run = job(TWO, {"x": x, **arrays})
    with pytest.raises((MetricNotApplicable, DatasetError)) as refused:
        until(run, "claims")
    assert type(refused.value).code == code
    for word in words:
        assert word in str(refused.value)
    # who names a metric that needs no labels says that they are for something else
    assert until(job(TWO, {"x": x, **arrays}, {"budget": {"metric": "explained"}}), "claims")["claims"]


def test_labels_of_more_classes_than_an_embedding_has_numbers(claimed):
    """Numbers that are no classes may come with labels of what is in the picture."""
    embedding = network([helper.make_node("Tanh", ["z"], ["e"])], {"e": (FLOAT, ["N", 8])})
    _, claims = claimed(embedding, labels=np.arange(SAMPLES) // 3)
    assert claims["e"]["metric"] == "explained"

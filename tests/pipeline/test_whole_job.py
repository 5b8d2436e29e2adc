"""The real stages from upload to delivery, on a network that is really trained."""

from __future__ import annotations

import json
from functools import partial

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from evaluation.splits import split
from pipeline.events import Estimate, MethodTimed, PlanEvaluated
from pipeline.methods import CHEAP, scores_of
from pipeline.stage import JobResult
from pipeline.table import TABLE
from quantization.export.audit import audit
from sensitivity.anchors import anchors

OTHERS = {"latency", "admit_float", "admit_pair", "inspect", "compare"}
STAGE_NAMES = [stage.name for stage in TABLE.stages if stage.name not in OTHERS]
FORMATS = {"weights": {"bits": [2, 3, 4, 6, 8]}}
# so little that the search does not find its plan at once
SEARCHED = {**FORMATS, "budget": {"metric": "top1", "max_drop": 0.002}}


def top1(model: bytes, images: np.ndarray, labels: np.ndarray) -> float:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return float((session.run(None, {"image": images})[0].argmax(1) == labels).mean())


def test_the_budget_is_kept_and_the_evidence_holds(job, model, samples):
    run = job(model, samples, {"budget": {"metric": "top1", "max_drop": 0.02}, **FORMATS})
    delivery = run.run()
    plan = json.loads(delivery.artifacts["plan"])
    quantized = delivery.artifacts["model"]
    assert run.ran == STAGE_NAMES
    assert delivery.outcome == plan["outcome"] == "met"
    assert plan["size_bytes"] == len(quantized) < len(model) / 4

    # every weight lies in the file at its planned width
    stored = {weight.name: weight.bits for weight in audit(quantized).weights}
    assert stored == {layer["weight"]: layer["bits"] for layer in plan["layers"]}
    assert [layer["name"] for layer in plan["layers"]] == ["conv1", "conv2", "fc"]

    # the certificate is what anybody measures on the held-out samples
    held_out = split(len(samples["labels"]), 0, samples["labels"]).held_out
    images, labels = samples["image"][held_out], samples["labels"][held_out]
    certificate = plan["certificate"]
    assert certificate["samples"] == len(held_out)
    assert certificate["float_value"] == pytest.approx(top1(model, images, labels))
    assert certificate["quantized_value"] == pytest.approx(top1(quantized, images, labels))
    assert certificate["drop"] <= 0.02
    assert certificate["low"] <= certificate["drop"] <= certificate["high"]


def test_what_else_is_delivered(job, model, samples):
    delivery = job(model, samples, {**SEARCHED, "sensitivity": {"compare": ["hawq_v2"]}}).run()
    plan, frontier, sensitivity = (json.loads(delivery.artifacts[kind]) for kind in ("plan", "frontier", "sensitivity"))
    costs = [point["cost"] for point in frontier["points"]]
    damages = [point["predicted_damage"] for point in frontier["points"]]
    assert costs == sorted(costs)
    assert damages == sorted(damages, reverse=True)
    assert any(point["measured"] for point in frontier["points"])
    # to the bit: from the candidates of the plan alone, and from the matrix of all
    assert plan["predicted_damage"] in [evaluated["predicted_damage"] for evaluated in plan["search"]["evaluated"]]
    assert len(plan["search"]["evaluated"]) >= 2
    assert sensitivity["unavailable"] == {}
    for site in sensitivity["sites"]:
        assert site["trace_mean"]["stderr"] > 0
        scores = [candidate["scores"]["cross_layer"]["score"] for candidate in site["candidates"]]
        assert scores[0] > scores[-1] >= 0  # 2 bits hurt more than 8
    assert len(sensitivity["interactions"]["matrix"]) == len(sensitivity["interactions"]["candidates"]) == 15
    assert sensitivity["interactions"]["sketch_error"] == 0  # ten outputs are not sketched
    # the sizes that were planned with are those of the files
    assert plan["size_bytes"] in [evaluated["size_bytes"] for evaluated in plan["search"]["evaluated"]]
    assert all(evaluated["size_bytes"] == evaluated["cost"] for evaluated in plan["search"]["evaluated"])
    assert delivery.summary["size_bytes"] == plan["size_bytes"]


def test_the_same_request_gives_the_same_bytes(job, model, samples):
    first, second = (job(model, samples, FORMATS).run() for _ in range(2))
    assert first.artifacts == second.artifacts


def test_a_second_question_repeats_no_analysis(job, model, samples):
    results: dict[str, bytes] = {}
    job(model, samples, FORMATS, results).run()
    for change, first in (
        ({"budget": {"metric": "top1", "max_drop": 0.05}}, "claims"),
        ({"objective": "bit_operations"}, "resolve"),
        ({"layers": {"fc": {"min_bits": 6}}}, "resolve"),
        ({"limits": {"max_size_bytes": 4000}}, "resolve"),
    ):
        again = job(model, samples, {**FORMATS, **change}, results)
        again.run()
        assert again.ran == [first, "plan", "certify"], change


@pytest.fixture(scope="module")
def undisturbed(lasting_job, model, samples) -> tuple[int, JobResult]:
    """How often a job looks whether to end, and what it delivers."""
    whole = lasting_job(model, samples, FORMATS)
    delivery = whole.run()
    return whole.checks, delivery


@pytest.mark.parametrize("share", [0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.98])
def test_a_killed_worker_resumes_to_the_same_bytes(job, model, samples, stopped, undisturbed, share):
    checks, expected = undisturbed
    results: dict[str, bytes] = {}
    with pytest.raises(stopped):
        job(model, samples, FORMATS, results, stop_after=int(share * checks)).run()
    assert job(model, samples, FORMATS, results).run().artifacts == expected.artifacts


def test_constraints_on_layers(job, model, samples):
    layers = {"conv1": {"keep": True}, "conv2.weight": {"bits": [5]}, "fc": {"min_bits": 6}}
    plan = json.loads(job(model, samples, {**FORMATS, "layers": layers}).run().artifacts["plan"])
    bits = {layer["name"]: layer["bits"] for layer in plan["layers"]}
    assert bits["conv1"] == 32
    assert bits["conv2"] == 5
    assert bits["fc"] >= 6


def test_a_limit_on_size_is_kept_even_when_the_budget_is_not(job, model, samples):
    request = {"budget": {"metric": "kl", "max_drop": 1e-9}, "limits": {"max_size_bytes": 3700}, **FORMATS}
    delivery = job(model, samples, request).run()
    plan = json.loads(delivery.artifacts["plan"])
    assert plan["size_bytes"] == len(delivery.artifacts["model"]) <= 3700
    assert delivery.outcome == plan["outcome"] == "not_met"
    assert plan["certificate"]["drop"] > 1e-9
    assert all(evaluated["size_bytes"] <= 3700 for evaluated in plan["search"]["evaluated"])


def test_a_budget_that_cannot_be_met_gives_the_best_effort_with_its_reason(job, model, samples):
    request = {"budget": {"metric": "kl", "max_drop": 1e-9}, "weights": {"bits": [2, 3]}}
    delivery = job(model, samples, request).run()
    plan = json.loads(delivery.artifacts["plan"])
    assert delivery.outcome == "not_met"
    assert "misses the budget by" in plan["reason"]
    assert "smallest drop" in plan["reason"]
    assert plan["certificate"]["drop"] > 1e-9


def test_a_deadline_gives_the_best_so_far(job, model, samples):
    request = {"budget": {"metric": "kl", "max_drop": 1e-9}, "search": {"deadline_seconds": 1.0}, **FORMATS}
    delivery = job(model, samples, request, late=True).run()
    assert delivery.outcome == "deadline"
    assert "deadline" in json.loads(delivery.artifacts["plan"])["reason"]
    assert delivery.artifacts["model"]


@pytest.mark.parametrize("rounding", ["nearest", "gptq"])
def test_every_method_and_rounding(job, model, samples, rounding):
    results: dict[str, bytes] = {}
    damages = {}
    for method in ("hawq_v2", "cross_layer", "augmented"):
        request = {
            "budget": {"metric": "top1", "max_drop": 0.03},
            "sensitivity": {"method": method},
            "weights": {"bits": [3, 4, 8], "rounding": rounding},
        }
        delivery = job(model, samples, request, results).run()
        plan, sensitivity = (json.loads(delivery.artifacts[kind]) for kind in ("plan", "sensitivity"))
        assert delivery.outcome == "met"
        scores = {
            (site["name"], candidate["format"]): candidate["scores"][scores_of(method)]["score"]
            for site in sensitivity["sites"]
            for candidate in site["candidates"]
        }
        for layer in plan["layers"]:
            assert layer["damage"] == pytest.approx(scores[layer["name"], layer["format"]])
            assert layer["rounding"] == {"gptq": "sequential gptq"}.get(rounding, "nearest: the request asks for it")
            assert layer["note"] is None
        assert plan["sensitivity"]["method"] == method
        damages[method] = scores
    assert all(damages["hawq_v2"][key] != damages["cross_layer"][key] for key in damages["hawq_v2"])


def test_a_method_runs_when_it_is_asked_for_and_repeats_no_passes(job, model, samples):
    results: dict[str, bytes] = {}
    sensitivity = json.loads(job(model, samples, FORMATS, results).run().artifacts["sensitivity"])
    assert set(sensitivity["sites"][0]["candidates"][0]["scores"]) == {"cross_layer", "measured"}
    assert sensitivity["sites"][0]["trace_mean"] == {"score": None, "stderr": None}
    again = job(model, samples, {**FORMATS, "sensitivity": {"method": "directional"}}, results)
    delivery = again.run()
    assert again.ran == ["resolve", "sensitivity", "agreement", "plan", "certify"]
    assert json.loads(delivery.artifacts["plan"])["sensitivity"]["method"] == "directional"
    scores = json.loads(delivery.artifacts["sensitivity"])["sites"][0]["candidates"][0]["scores"]
    assert scores["directional"]["score"] == pytest.approx(scores["cross_layer"]["score"], rel=0.5)


def test_the_comparison_of_methods_is_shown(job, model, samples):
    run = job(model, samples, {**FORMATS, "sensitivity": {"compare": CHEAP}})
    delivery = run.run()
    plan, sensitivity = (json.loads(delivery.artifacts[kind]) for kind in ("plan", "sensitivity"))
    compared = {one["method"]: one for one in sensitivity["agreement"]["methods"]}
    assert sensitivity["method"] == plan["sensitivity"]["method"]
    assert list(compared)[:2] == ["augmented", "cross_layer"]
    assert {"measured", *CHEAP} < set(compared)
    for one in compared.values():
        assert -1 <= one["low"] <= one["spearman"] <= one["high"] <= 1
        assert one["float_passes"] >= 0
    assert compared["augmented"]["spearman"] > 0.9
    assert sensitivity["agreement"]["plans"] == 20
    weight = plan["sensitivity"]["agreement"]["lambda"]
    assert weight == sensitivity["agreement"]["lambda"]
    assert weight["value"] >= 0
    assert weight["stderr"] > 0
    estimates = run.of_kind(Estimate)
    assert [estimate.stage for estimate in estimates] == ["job", "cross_layer", "sensitivity"]
    for estimate in estimates:
        assert 0 < estimate.seconds < 600
        assert 1 << 20 < estimate.memory_bytes < 8 << 30
    seconds = {event.method: event.seconds for event in run.of_kind(MethodTimed)}
    assert set(seconds) | {"augmented"} == set(compared)
    assert min(seconds.values()) > 0


def test_with_one_format_there_is_nothing_to_compare(job, model, samples):
    delivery = job(model, samples, {"weights": {"bits": [8]}}).run()
    plan = json.loads(delivery.artifacts["plan"])
    assert plan["sensitivity"]["method"] == "augmented"
    assert "too few plans to compare" in plan["sensitivity"]["agreement"]["note"]
    assert plan["sensitivity"]["agreement"]["lambda"] is None
    assert delivery.outcome == "met"


def test_activations_are_planned_measured_and_written(job, model, samples):
    request = {"budget": {"metric": "top1", "max_drop": 0.03}, "activations": {"bits": [8]}, **FORMATS}
    request["sensitivity"] = {"compare": ["hawq_v2"]}
    delivery = job(model, samples, request).run()
    plan, sensitivity = (json.loads(delivery.artifacts[kind]) for kind in ("plan", "sensitivity"))
    assert delivery.outcome == "met"
    assert plan["size_bytes"] == len(delivery.artifacts["model"])
    planned = {tensor: row["bits"] for row in plan["activations"] for tensor in row["tensors"]}
    assert {stored.name: stored.bits for stored in audit(delivery.artifacts["model"]).activations} == planned
    assert {row["format"] for row in plan["activations"]} == {"uint8/tensor"}
    assert all(row["damage"] >= 0 and row["damage_stderr"] >= 0 for row in plan["activations"])
    scores = {site["name"]: site["candidates"][0]["scores"] for site in sensitivity["sites"]}
    for row in plan["activations"]:
        assert scores[row["name"]]["hawq_v2"]["score"] > 0
    # of a layer both of whose sides have 8 bits, every bit operation is counted
    fc = next(layer for layer in plan["layers"] if layer["name"] == "fc")
    assert fc["bit_operations"] == 216 * 10 * fc["bits"] * 8
    # what was certified is what the file does
    held_out = split(len(samples["labels"]), 0, samples["labels"]).held_out
    accuracy = top1(delivery.artifacts["model"], samples["image"][held_out], samples["labels"][held_out])
    assert plan["certificate"]["quantized_value"] == pytest.approx(accuracy)


def test_activations_of_several_widths_and_one_that_is_kept(job, model, samples):
    request = {
        "budget": {"metric": "top1", "max_drop": 0.05},
        "activations": {"bits": [4, 8]},
        "layers": {"image": {"keep": True}, "r1": {"bits": [8]}},
        "weights": {"bits": [4, 8]},
    }
    plan = json.loads(job(model, samples, request).run().artifacts["plan"])
    bits = {row["name"]: row["bits"] for row in plan["activations"]}
    assert bits["image"] == 32
    assert bits["r1"] == 8
    assert set(bits.values()) <= {4, 8, 32}


def test_a_width_for_one_kind_is_no_candidate_of_the_other(job, model, samples):
    layers = {"conv1": {"bits": [5]}, "r1": {"bits": [4]}}
    request = {"activations": {"bits": [8]}, "weights": {"bits": [3, 8]}, "layers": layers}
    sensitivity = json.loads(job(model, samples, request).run().artifacts["sensitivity"])
    formats = {site["name"]: [one["format"] for one in site["candidates"]] for site in sensitivity["sites"]}
    assert formats["conv2"] == ["int3/channel", "int5/channel", "int8/channel"]
    assert formats["r1"] == ["uint4/tensor", "uint8/tensor"]


def test_scores_that_only_order_are_scaled_to_damages_with_their_errors(job, model, samples):
    request = {"sensitivity": {"method": "hawq"}, **FORMATS}
    delivery = job(model, samples, request).run()
    plan, sensitivity = (json.loads(delivery.artifacts[kind]) for kind in ("plan", "sensitivity"))
    ratio = next(one["ratio"] for one in sensitivity["agreement"]["methods"] if one["method"] == "hawq")
    scores = {
        (site["name"], one["format"]): one["scores"]["hawq"]
        for site in sensitivity["sites"]
        for one in site["candidates"]
    }
    for layer in plan["layers"]:
        own = scores[layer["name"], layer["format"]]
        assert layer["damage"] == pytest.approx(ratio * own["score"])
        assert layer["damage_stderr"] == pytest.approx(ratio * own["stderr"])


def test_gptq_and_nearest_are_different_files(job, model, samples):
    first, second = (
        job(model, samples, {"weights": {"bits": [3], "rounding": rounding}, "budget": {"max_drop": 0.5}}).run()
        for rounding in ("gptq", "nearest")
    )
    bits = [[layer["bits"] for layer in json.loads(one.artifacts["plan"])["layers"]] for one in (first, second)]
    assert bits[0] == bits[1] == [3, 3, 3]
    assert first.artifacts["model"] != second.artifacts["model"]


def test_without_labels_the_metric_is_agreement(job, model, samples):
    plan = json.loads(job(model, {"image": samples["image"]}, FORMATS).run().artifacts["plan"])
    assert plan["certificate"]["metric"] == "agreement"


def test_without_data_inputs_are_made_and_the_certificate_says_so(job, model):
    plan = json.loads(job(model, None, FORMATS).run().artifacts["plan"])
    assert plan["certificate"]["synthetic"]
    assert "made" in plan["certificate"]["statement"]


def kind_of_loss(delivery: JobResult) -> str:
    (term,) = json.loads(delivery.artifacts["sensitivity"])["loss"]["terms"]
    return str(term["kind"])


def test_with_targets_the_damage_is_squared_error_and_the_metric_the_share_of_their_variance(job, model, samples):
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    logits = session.run(None, {"image": samples["image"]})[0]
    targets = (logits + np.random.default_rng(0).normal(size=logits.shape)).astype(np.float32)
    delivery = job(model, {"image": samples["image"], "targets": targets}, FORMATS).run()
    (claim,) = json.loads(delivery.artifacts["plan"])["certificate"]["claims"]
    assert claim["metric"] == "r2"
    assert "targets" in claim["reason"]
    assert kind_of_loss(delivery) == "squared_error"


def test_targets_that_the_network_does_not_learn_say_nothing_about_it(job, model, samples):
    """Its logits are no better at them than their mean, and no worse once they are spoilt."""
    targets = np.eye(10, dtype=np.float32)[samples["labels"]]
    delivery = job(model, {"image": samples["image"], "targets": targets}, FORMATS).run()
    (claim,) = json.loads(delivery.artifacts["plan"])["certificate"]["claims"]
    assert claim["metric"] == "explained"
    assert "r2 would not tell the network from one that knows nothing" in claim["reason"]
    assert kind_of_loss(delivery) == "squared_error"


def test_a_classifier_past_its_softmax(job, softmax_model, samples):
    delivery = job(softmax_model, samples, FORMATS).run()
    assert kind_of_loss(delivery) == "kl_probabilities"
    assert delivery.outcome == "met"


def fixed_batch(model: bytes, batch: int) -> bytes:
    fixed = onnx.ModelProto.FromString(model)
    for value in (*fixed.graph.input, *fixed.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = batch
    return fixed.SerializeToString()


def test_a_fixed_batch_size_is_respected(job, trained, model, samples):
    delivery = job(fixed_batch(model, 16), samples, FORMATS).run()
    assert delivery.outcome == "met"
    session = onnxruntime.InferenceSession(delivery.artifacts["model"], providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape[0] == 16


def test_a_fixed_batch_larger_than_the_cap_on_curvature_samples(job, model, samples):
    repeated = {name: np.concatenate([array] * 2) for name, array in samples.items()}
    delivery = job(fixed_batch(model, 550), repeated, {"weights": {"bits": [4, 8]}}).run()
    assert json.loads(delivery.artifacts["sensitivity"])["samples"] == 550
    assert delivery.outcome == "met"


def two_headed(model: bytes) -> bytes:
    """With a second output of integers, a choice among what a linear layer of its own makes."""
    proto = onnx.ModelProto.FromString(model)
    weight = np.random.default_rng(0).normal(size=(216, 4)).astype(np.float32)
    proto.graph.initializer.append(numpy_helper.from_array(weight, "aux.weight"))
    proto.graph.node.append(helper.make_node("MatMul", ["f", "aux.weight"], ["scores"]))
    proto.graph.node.append(helper.make_node("ArgMax", ["scores"], ["choice"], axis=1, keepdims=0))
    proto.graph.output.append(helper.make_tensor_value_info("choice", TensorProto.INT64, ["N"]))
    return proto.SerializeToString()


def test_what_no_measured_output_depends_on_is_not_ruined(job, model, samples):
    request = {"budget": {"max_drop": 0.05}, "weights": {"bits": [2, 3, 6]}, "layers": {"conv1": {"bits": [3]}}}
    plan = json.loads(job(two_headed(model), samples, request).run().artifacts["plan"])
    layers = {layer["name"]: layer for layer in plan["layers"]}
    assert layers["aux"]["bits"] == 6
    assert "widest" in layers["aux"]["note"]
    assert {layers[name]["note"] for name in ("conv1", "conv2", "fc")} == {None}
    assert min(layers[name]["bits"] for name in ("conv2", "fc")) < 6


def test_a_resumed_job_reports_no_evaluation_twice(job, model, samples, stopped):
    whole = job(model, samples, SEARCHED)
    whole.run()
    expected = whole.of_kind(PlanEvaluated)
    assert len(expected) > 2
    results: dict[str, bytes] = {}
    begun = job(model, samples, SEARCHED, results, stop_after=whole.checks_at_plans[1] + 1)
    with pytest.raises(stopped):
        begun.run()
    resumed = job(model, samples, SEARCHED, results)
    resumed.run()
    assert begun.of_kind(PlanEvaluated) == expected[:2]
    assert resumed.of_kind(PlanEvaluated) == expected[2:]


def test_formats_between_measured_ones_do_what_they_would_be_measured_to_do(job, model, samples, monkeypatch):
    monkeypatch.setattr("pipeline.stages.cross_layer.anchors", partial(anchors, few=0))
    few = job(model, samples)
    every = job(model, samples, {"sensitivity": {"method": "cross_layer"}}, results=few.results)
    scores = {}
    for run in (few, every):
        sensitivity = json.loads(run.run().artifacts["sensitivity"])
        passes = {method["method"]: method for method in sensitivity["agreement"]["methods"]}
        scores[run is every] = {
            (site["name"], candidate["format"]): candidate["scores"]["measured"]["score"]
            for site in sensitivity["sites"]
            for candidate in site["candidates"]
        }
        note = passes["measured"].get("note", "")
        assert note == ("" if run is every else "9 of 21 candidates measured, others between")
    assert "cross_layer" in every.ran
    found, measured = ([scores[by][key] for key in scores[True]] for by in (False, True))
    assert sum(one == other for one, other in zip(found, measured, strict=True)) >= 9
    assert np.corrcoef(np.log(found), np.log(measured))[0, 1] > 0.99
    narrow = [int(format_[3]) <= 5 for _, format_ in scores[True]]
    np.testing.assert_allclose(np.log(found)[narrow], np.log(measured)[narrow], atol=np.log(3))

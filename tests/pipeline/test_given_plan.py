"""A plan that a request brings is applied without any search: the same file, the same certificate, or a clear no."""

from __future__ import annotations

import json
import math

import numpy as np
import onnx
import pytest
from jsonschema import Draft202012Validator

from app.schemas.plan import plan_schema_text
from pipeline.given_plan import PlanUnfit
from quantization.export.audit import audit

FORMATS = {"weights": {"bits": [2, 3, 4, 6, 8]}}
BUDGET = {"budget": {"metric": "top1", "max_drop": 0.03}}
STAGES = ["admit", "normalise", "resolve", "reference", "claims", "calibrate", "certify"]
MINI = {
    "version": 1,
    "layers": [
        {"name": "conv1", "format": "float32"},
        {"name": "conv2.weight", "format": "int4/channel"},
        {"name": "fc", "format": "int8/tensor", "bits": 8},
    ],
}


def plan_of(delivery):
    return json.loads(delivery.artifacts["plan"])


@pytest.mark.parametrize("rounding", ["gptq", "nearest"])
@pytest.mark.parametrize("activations", [{}, {"activations": {"bits": [4, 8]}, "layers": {"r1": {"keep": True}}}])
def test_the_delivered_plan_gives_the_same_file_bit_for_bit(job, model, samples, rounding, activations):
    weights = {"bits": [2, 3, 4, 6, 8], "rounding": rounding}
    searched = job(model, samples, {**BUDGET, "weights": weights, **activations}).run()
    run = job(model, samples, {**BUDGET, "weights": {"rounding": rounding}, "plan": plan_of(searched)})
    applied = run.run()
    assert run.ran == STAGES
    assert applied.artifacts["model"] == searched.artifacts["model"]
    assert applied.artifacts["ort"] == searched.artifacts["ort"]
    assert applied.artifacts["aimet"] == searched.artifacts["aimet"]
    plan = plan_of(applied)
    assert applied.outcome == plan["outcome"] == "met"
    assert plan["size_bytes"] == len(applied.artifacts["model"])
    assert (plan["search"], plan["sensitivity"], plan["predicted_damage"]) == (None, None, None)
    costs = ("name", "format", "bits", "input_bits", "bytes", "bit_operations", "rounding", "rounded_with")
    assert [[row[one] for one in costs] for row in plan["layers"]] == [
        [row[one] for one in costs] for row in plan_of(searched)["layers"]
    ]
    assert {row["damage"] for row in [*plan["layers"], *plan["activations"]]} == {None}
    certificates = [plan_of(one)["certificate"] for one in (applied, searched)]
    assert certificates[0]["drop"] == certificates[1]["drop"]
    assert set(applied.artifacts) == {"plan", "model", "ort", "aimet", "samples"}


def test_a_plan_by_hand_gets_its_formats_and_its_certificate(job, model, samples):
    delivery = job(model, samples, {**BUDGET, "plan": MINI}).run()
    plan = plan_of(delivery)
    assert [row["format"] for row in plan["layers"]] == ["float32", "int4/channel", "int8/tensor"]
    assert {weight.name: weight.bits for weight in audit(delivery.artifacts["model"]).weights} == {
        "conv1.weight": 32,
        "conv2.weight": 4,
        "fc.weight": 8,
    }
    assert plan["certificate"]["looks"] == 1
    assert delivery.summary["evaluations"] == 0


def test_a_plan_on_the_base_float32_names_only_what_is_quantized(job, model, samples):
    partial = {"base": "float32", "layers": {"first": "int8/channel"}, "activations": {"r1": "uint8/tensor"}}
    plan = plan_of(job(model, samples, {**BUDGET, "plan": partial}).run())
    assert [row["format"] for row in plan["layers"]] == ["int8/channel", "float32", "float32"]
    formats = {row["name"]: row["format"] for row in plan["activations"]}
    assert {name for name, format_ in formats.items() if format_ != "float32"} == {"r1"}
    assert len(formats) > 1


def test_the_format_decides_and_figures_that_contradict_it_do_not(job, model, samples):
    searched = plan_of(job(model, samples, {**BUDGET, **FORMATS}).run())
    edited = [row | {"format": "int8/channel"} if row["name"] == "fc" else row for row in searched["layers"]]
    applied = plan_of(job(model, samples, {**BUDGET, "plan": {**searched, "layers": edited}}).run())
    rows = {row["name"]: row for row in applied["layers"]}
    assert (rows["fc"]["format"], rows["fc"]["bits"]) == ("int8/channel", 8)
    assert rows["fc"]["bytes"] >= 8 * rows["fc"]["weights"] // 8


def test_a_plan_that_misses_the_budget_is_delivered_and_says_so(job, model, samples):
    low = {"version": 1, "layers": [{"name": name, "format": "int2/tensor"} for name in ("conv1", "conv2", "fc")]}
    delivery = job(model, samples, {"budget": {"metric": "kl", "max_drop": 1e-9}, "plan": low}).run()
    assert delivery.outcome == "not_met"
    assert "the plan that was applied misses the budget by" in plan_of(delivery)["reason"]
    assert delivery.artifacts["model"]


@pytest.mark.parametrize(
    ("change", "code", "says"),
    [
        ({"layers": [*MINI["layers"], {"name": "conv9", "format": "float32"}]}, "layers_unknown", "conv1, conv2, fc"),
        ({"layers": MINI["layers"][:1]}, "plan_invalid", "leaves out 'conv2', 'fc'; give each a format"),
        ({"layers": [*MINI["layers"], {"name": "conv2", "format": "float32"}]}, "plan_invalid", "'conv2.weight' twice"),
        (
            {"layers": [{"name": "conv1", "format": "int9/channel"}, *MINI["layers"][1:]]},
            "plan_invalid",
            "int9/channel",
        ),
        ({"layers": [{"name": "conv1", "format": "uint8/tensor"}, *MINI["layers"][1:]]}, "plan_invalid", "a weight"),
        ({"base": "a" * 32}, "plan_invalid", "plan.base is a job, which only its service knows"),
        (
            {"layers": [*MINI["layers"][:2], {**MINI["layers"][2], "rounded_with": ["int8/tensor", "uint8/tensor"]}]},
            "plan_invalid",
            "fc, rounded_with, is a weight, and uint8/tensor a format of activations",
        ),
        ({"activations": [{"name": "r1", "format": "uint8/tensor"}]}, "plan_invalid", "plan.activations leaves out"),
        ({"activations": [{"name": "r9", "format": "uint8/tensor"}]}, "layers_unknown", "plan.activations names 'r9'"),
    ],
)
def test_a_plan_that_does_not_fit_is_refused_before_anything_is_slow(job, model, samples, change, code, says):
    run = job(model, samples, {"plan": {**MINI, **change}})
    with pytest.raises(ValueError, match=says) as refused:
        run.run()
    assert type(refused.value).code == code
    assert run.ran == ["admit", "normalise"]


def test_an_activation_takes_no_format_of_weights(job, model, samples):
    searched = plan_of(job(model, samples, {**BUDGET, "activations": {"bits": [8]}, **FORMATS}).run())
    searched["activations"][0] |= {"format": "int8/tensor"}
    with pytest.raises(PlanUnfit, match="is an activation, and int8/tensor a format of weights"):
        job(model, samples, {"plan": searched}).run()


@pytest.mark.parametrize(
    ("target", "says"), [("integer-w8-a8", "asks for 4 bits"), ("storage-only", "activations stay float32")]
)
def test_formats_that_the_target_lacks_are_refused(job, model, samples, target, says):
    weights = plan_of(job(model, samples, {**BUDGET, "activations": {"bits": [8]}, **FORMATS}).run())
    layers = [{**MINI["layers"][1], "name": row["name"]} for row in weights["layers"]]
    with pytest.raises(ValueError, match=says) as refused:
        job(model, samples, {"target": target, "plan": {**weights, "layers": layers}}).run()
    assert type(refused.value).code == "constraint_impossible"


@pytest.fixture(scope="module")
def undisturbed(lasting_job, model, samples):
    """How often a job looks whether to end, and what it delivers."""
    whole = lasting_job(model, samples, {**BUDGET, "plan": MINI})
    delivery = whole.run()
    return whole.checks, delivery


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_killed_worker_resumes_an_applied_plan_to_the_same_bytes(job, model, samples, stopped, undisturbed, share):
    checks, expected = undisturbed
    results: dict[str, bytes] = {}
    with pytest.raises(stopped):
        job(model, samples, {**BUDGET, "plan": MINI}, results, stop_after=int(share * checks)).run()
    assert job(model, samples, {**BUDGET, "plan": MINI}, results).run().artifacts == expected.artifacts


def test_another_budget_for_a_plan_repeats_no_rounding(job, model, samples):
    results: dict[str, bytes] = {}
    job(model, samples, {**BUDGET, "plan": MINI}, results).run()
    again = job(model, samples, {"budget": {"metric": "top1", "max_drop": 0.5}, "plan": MINI}, results)
    again.run()
    assert again.ran == ["claims", "certify"]


def test_the_schema_takes_every_kind_of_plan_and_nothing_else(job, model, samples):
    request = {**BUDGET, **FORMATS, "objective": "latency", "activations": {"bits": [8]}}
    plan = plan_of(job(model, samples, request).run())
    assert plan["latency"]["measured"]
    schema = json.loads(plan_schema_text())
    Draft202012Validator.check_schema(schema)
    is_valid = Draft202012Validator(schema).is_valid
    assert is_valid(plan)  # as is every plan that a test here delivers: `LocalJob` looks
    for path, needed in (
        ((), "layers"),
        (("layers", 0), "format"),
        (("activations", 0), "format"),
        (("certificate",), "drop"),
        (("certificate", "claims", 0), "outputs"),
        (("outputs", 0), "meaning"),
        (("stays_float",), "bytes"),
        (("search",), "status"),
        (("latency",), "predicted_ms"),
    ):
        changed = json.loads(json.dumps(plan))
        place = changed
        for step in path:
            place = place[step]
        place["surprise"] = 1
        assert not is_valid(changed), path
        del place["surprise"]
        del place[needed]
        assert not is_valid(changed), path


def test_the_overrides_are_those_of_the_plan(job, model, samples):
    delivery = job(model, samples, {**BUDGET, "plan": MINI}).run()
    document = json.loads(delivery.artifacts["ort"])
    assert document["nodes_to_exclude"] == ["first"]
    overrides = document["tensor_quant_overrides"]
    assert list(overrides) == ["conv2.weight", "fc.weight"]  # four bits first
    assert [overrides["conv2.weight"][0][key] for key in ("quant_type", "axis")] == ["QInt4", 0]
    assert len(overrides["conv2.weight"]) == 24
    assert set(overrides["fc.weight"][0]) == {"quant_type", "scale", "zero_point"}
    assert [note["note"][:11] for note in document["notes"]] == ["activations"]


def test_encodings_are_the_grids_of_the_file(job, model, samples):
    weights = {"version": 1, "layers": [{"name": name, "format": "int3/channel"} for name in ("conv1", "conv2", "fc")]}
    request = {"budget": {"max_drop": 0.99}, "weights": {"rounding": "nearest"}, "plan": weights}
    document = json.loads(job(model, samples, request).run().artifacts["aimet"])
    proto = onnx.ModelProto.FromString(model)
    floats = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    assert [one["name"] for one in document["param_encodings"]] == ["conv1.weight", "conv2.weight", "fc.weight"]
    moved = 0
    for one in document["param_encodings"]:
        values = floats[one["name"]].reshape(len(one["scale"]), -1)
        scale, offset = (np.array(one[key])[:, None] for key in ("scale", "offset"))
        codes = np.clip(np.rint(values / scale) - offset, 0, 2 ** one["bw"] - 1)
        errors = np.abs(scale * (codes + offset) - values)
        assert one["bw"] == 3
        assert (scale > 0).all()
        assert set(one["offset"]) <= {-4, -3}
        assert one["is_sym"] == (set(one["offset"]) == {-4})
        # few values lie beyond the grid: it is the one that fits them best
        assert (errors <= scale / 2 + 1e-6).mean() > 0.9
        moved += one["offset"].count(-3)
    assert moved > 0  # of some channels the positive tail is longer


def test_the_activations_of_the_encodings_are_those_of_the_plan(job, model, samples):
    request = {**BUDGET, "activations": {"bits": [8]}, "layers": {"r1": {"keep": True}}, **FORMATS}
    delivery = job(model, samples, request).run()
    plan, aimet = plan_of(delivery), json.loads(delivery.artifacts["aimet"])
    found = {one["name"]: one for one in aimet["activation_encodings"]}
    quantized = [row for row in plan["activations"] if row["format"] != "float32"]
    # AIMET refuses an encoding of float32, and leaves alone what has none
    assert set(found) == {tensor for row in quantized for tensor in row["tensors"]} == {"image", "r2", "f"}
    for row in quantized:
        one = found[row["name"]]
        assert (one["bw"], one["is_sym"]) == (8, False)
        # value = scale (code + offset) = scale (code - zero point)
        assert (one["scale"], one["offset"]) == ([row["scale"]], [-row["zero_point"]])
        assert math.isfinite(one["scale"][0])

"""Layers that share a format: from the request to the delivered plan, and what is refused before anything is slow."""

from __future__ import annotations

import json

import pytest

from planner.errors import ConstraintImpossible, PlannerError, UnknownLayer

REQUEST = {"budget": {"metric": "top1", "max_drop": 0.05}, "weights": {"bits": [2, 3, 4, 6, 8]}}


@pytest.mark.parametrize("search", ["frontier", "bisection"])
def test_tied_layers_get_one_format_in_every_plan(job, model, samples, search):
    request = {**REQUEST, "search": {"method": search}, "layers": {"fc": {"same_as": "first"}}}
    delivery = job(model, samples, request).run()
    plan, frontier = (json.loads(delivery.artifacts[kind]) for kind in ("plan", "frontier"))
    bits = [{layer["name"]: layer["bits"] for layer in plan["layers"]}]
    bits += [evaluated["bits"] for evaluated in plan["search"]["evaluated"]]
    bits += [point["bits"] for point in frontier["points"]]
    assert all(found["conv1"] == found["fc"] for found in bits)
    assert len({found["conv2"] - found["fc"] for found in bits}) > 1
    assert delivery.outcome == "met"
    assert all(evaluated["cost"] == evaluated["size_bytes"] for evaluated in plan["search"]["evaluated"])


def test_a_chain_is_one_group_and_follows_the_layer_that_has_a_say(job, model, samples):
    layers = {"fc": {"same_as": "conv2"}, "conv2.weight": {"same_as": "conv1"}, "conv1": {"bits": [5]}}
    plan = json.loads(job(model, samples, {**REQUEST, "layers": layers}).run().artifacts["plan"])
    assert [layer["bits"] for layer in plan["layers"]] == [5, 5, 5]


@pytest.mark.parametrize(
    ("layers", "error", "text"),
    [
        ({"fc": {"same_as": "conv9"}}, UnknownLayer, "layers.fc.same_as names 'conv9'.*conv1, conv2, fc"),
        ({"fc": {"same_as": "fc.weight"}}, ConstraintImpossible, "names the layer itself, as 'fc.weight'"),
        (
            {"fc": {"same_as": "conv1"}, "conv1": {"keep": True}},
            ConstraintImpossible,
            'layers ties fc with same_as to conv1, which keeps float32.*say {"keep": true} of fc too',
        ),
        (
            {"fc": {"same_as": "conv1"}, "conv2": {"same_as": "conv1"}, "conv1": {"keep": True}},
            ConstraintImpossible,
            "layers ties conv2, fc with same_as to conv1",
        ),
    ],
)
def test_what_cannot_be_tied_is_refused_with_what_can(job, model, samples, layers, error, text):
    run = job(model, samples, {**REQUEST, "layers": layers})
    with pytest.raises(error, match=text):
        run.run()
    assert run.ran == ["admit", "normalise"]


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        ({"target": "integer-w8-a8", "weights": {"bits": [4, 8]}}, "weights.bits asks for 4 bits.*the nearest is 8"),
        (
            {"target": "integer-w4w8-a8", "layers": {"fc": {"bits": [6]}}},
            "layers.fc.bits asks for 6 bits, which the target integer-w4w8-a8 does not support; the nearest is 8",
        ),
    ],
)
def test_formats_that_the_target_does_not_have_are_refused(job, model, samples, request_, text):
    run = job(model, samples, request_)
    with pytest.raises(PlannerError, match=text):
        run.run()
    assert run.ran == ["admit", "normalise"]


def test_a_target_of_few_widths_is_planned_with_these(job, model, samples):
    request = {"target": "integer-w4w8-a8", "budget": {"metric": "top1", "max_drop": 0.05}}
    plan = json.loads(job(model, samples, request).run().artifacts["plan"])
    assert {layer["bits"] for layer in plan["layers"]} <= {4, 8}

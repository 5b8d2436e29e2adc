"""Layers that share a format: from the request to the delivered plan, and what is refused before anything is slow."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from network.graph import Network
from network.normalise import normalise
from pipeline.allowed_formats import allowed_formats, candidate_formats, fitting
from pipeline.config import ResolveConfig
from pipeline.search_space import SearchSpace
from planner.errors import ConstraintImpossible, PlannerError, UnknownLayer
from tests.pipeline.conftest import configured

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


def two_layers(**request: Any) -> tuple[Network, ResolveConfig]:
    """Layers of 27 and of 64 inputs, of which the first does not divide into blocks of 32, and what is asked."""
    shapes = {"fc1": (64, 27), "fc2": (10, 64)}
    graph = helper.make_graph(
        [
            helper.make_node("Gemm", ["x", "fc1"], ["a"], transB=1, name="fc1"),
            helper.make_node("Relu", ["a"], ["r"]),
            helper.make_node("Gemm", ["r", "fc2"], ["y"], transB=1, name="fc2"),
        ],
        "two_layers",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 27])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 10])],
        [numpy_helper.from_array(np.ones(shape, np.float32), name) for name, shape in shapes.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    return normalise(proto, {"x": (27,)}), configured(**request).resolve


@pytest.mark.parametrize("layers", [{"fc1": {"same_as": "fc2"}}, {"fc2": {"same_as": "fc1"}}])
def test_layers_of_different_shapes_share_what_all_of_them_are_rounded_to(layers):
    weights = {"formats": ["int4/block32", "int8/channel"]}
    network, config = two_layers(weights=weights, layers=layers)
    allowed, tied = allowed_formats(network, config.formats)
    assert tied == [["fc1", "fc2"]]
    assert allowed == {"fc1": ["int8/channel"], "fc2": ["int8/channel"]}
    for site in network.sites:
        formats = fitting(site, candidate_formats(config.formats, ()))
        assert set(allowed[site.name]) <= {format_.name for format_ in formats}
    assert len(SearchSpace.build(network, config.space, allowed, tied).joint.problem.sites) == 1


@pytest.mark.parametrize("first", ["fc1", "fc2"])
def test_layers_of_different_shapes_without_a_format_for_all_are_refused(first):
    other = {"fc1": "fc2", "fc2": "fc1"}[first]
    network, config = two_layers(weights={"formats": ["int4/block32"]}, layers={other: {"same_as": first}})
    with pytest.raises(
        ConstraintImpossible, match=f"fc1 and fc2 with same_as, and none of the formats of {first} .*fit"
    ):
        allowed_formats(network, config.formats)


def test_a_format_that_only_one_layer_names_is_one_of_all():
    layers = {"fc1": {"same_as": "fc2"}, "fc2": {"formats": ["int4/block32", "int5/tensor"]}}
    network, config = two_layers(weights={"formats": ["int8/channel"]}, layers=layers)
    assert allowed_formats(network, config.formats)[0] == {"fc1": ["int5/tensor"], "fc2": ["int5/tensor"]}

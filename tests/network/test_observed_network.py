"""What a network does with what a run showed: costs, activations, memory, and how it is kept."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto

from network.activations import find_activations
from network.admission import AdmissionLimits, admit
from network.batching import Batching, shape_of_sample
from network.faithful import faithful
from network.graph import Network
from network.memory import normalised_memory
from network.normalise import dump, from_proto, load, normalise
from network.observed import observe
from network.shapes import Observation, Observed, inferred_values, known_shapes
from tests.network.bodies import (
    BOOL,
    COUNTED,
    FLOAT,
    GROWS,
    INT64,
    POSITIVE,
    POSITIVE_WEIGHTS,
    W,
    X,
    branches,
    model_of,
    node,
    value,
)


def observed_network(model: ModelProto, feed: Mapping[str, NDArray[Any]]) -> Any:
    network = normalise(model, {name: array.shape[1:] for name, array in feed.items()})
    return from_proto(network.proto, network.sample_shapes, observed=observe(network.proto, feed))


def test_layers_cost_what_the_run_took_and_say_where_none_is_known() -> None:
    model = model_of(POSITIVE, ["y"], weights=POSITIVE_WEIGHTS)
    inferred, known = normalise(model), observed_network(model, {"x": X})
    assert [(site.macs, site.macs_known) for site in inferred.sites] == [(5, False)]  # each weight once
    assert [(site.macs, site.macs_known) for site in known.sites] == [(5 * int((X > 0).sum()), True)]
    elements = [[site.elements for site in find_activations(network)] for network in (inferred, known)]
    assert elements == [[None], [int((X > 0).sum())]]


def test_a_layer_and_an_activation_of_a_fixed_batch_are_those_of_one_sample() -> None:
    network = observed_network(
        model_of([node("Relu", ["x"], ["a"]), node("MatMul", ["a", "w"], ["y"])], ["y"]), {"x": X}
    )
    proto = ModelProto()
    proto.CopyFrom(network.proto)
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 5
    of_five = from_proto(proto, {}, observed=observe(proto, {"x": np.repeat(X, 5, axis=0)}))
    assert [site.macs for site in of_five.sites] == [site.macs for site in network.sites] == [3 * 4 * 4]
    assert [site.elements for site in find_activations(of_five)] == [12]


def test_memory_counts_what_was_observed() -> None:
    model = model_of(POSITIVE, ["y"], weights=POSITIVE_WEIGHTS)
    inferred, known = normalise(model), observed_network(model, {"x": X})
    assert normalised_memory(inferred, 1).unknown > 0
    estimate = normalised_memory(known, 1)
    assert (estimate.unknown, estimate.largest) == (0, "places")
    assert estimate.largest_bytes == 8 * 3 * int((X > 0).sum())
    assert normalised_memory(known, 7) == normalised_memory(inferred, 7)  # nothing was observed of seven


def test_observations_travel_with_the_network_and_not_into_its_graph() -> None:
    network = observed_network(model_of(POSITIVE, ["y"], weights=POSITIVE_WEIGHTS), {"x": X})
    again = load(dump(network))
    assert again.observed == network.observed
    assert again.sites == network.sites
    assert not again.proto.metadata_props
    assert dump(again) == dump(network)
    assert "observed" in onnx.ModelProto.FromString(dump(network)).metadata_props[-1].key


def test_what_an_older_opset_adds_is_inferred_from_what_was_observed() -> None:
    nodes = [*POSITIVE[:-1], node("Gelu", ["column"], ["g"], approximate="tanh"), node("MatMul", ["g", "wide"], ["y"])]
    network = observed_network(model_of(nodes, ["y"], weights=POSITIVE_WEIGHTS), {"x": X})
    older = load(dump(network), 18)
    assert len(older.nodes) > len(network.nodes)
    assert normalised_memory(older, 1).unknown == 0
    assert [site.macs for site in older.sites] == [site.macs for site in network.sites]


def test_the_run_wins_over_inference() -> None:
    """As where a sample takes another way than the file declares."""
    network = observed_network(model_of([node("MatMul", ["x", "w"], ["y"])], ["y"]), {"x": X})
    other: Observed = dict(network.observed) | {"y": Observation.once(FLOAT, (9, 9, 4))}
    shapes = known_shapes(inferred_values(network.proto, 1, {}, Batching(), other))
    assert shapes["y"] == (9, 9, 4)
    partly = {name: own for name, own in other.items() if name == "y"}
    assert known_shapes(inferred_values(network.proto, 1, {}, Batching(), partly))["y"] == (9, 9, 4)


def test_a_branch_that_did_not_run_keeps_what_is_inferred() -> None:
    model = model_of([node("MatMul", ["x", "w"], ["z"]), branches("z")], ["either"], [value("yes", [1], BOOL)])
    network = observed_network(model, {"x": X, "yes": np.array([True])})
    assert network.observed["minus"].times == 0
    assert normalised_memory(network, 1).unknown == 0
    assert dataclasses.replace(network, observed={}).float_shapes[0]["z"] == (1, 3, 4)


@pytest.mark.parametrize("times", [0, 3])
def test_layers_in_a_body_cost_what_all_its_runs_take(times: int) -> None:
    grows = GraphProto()
    grows.CopyFrom(GROWS)
    del grows.output[1]  # so that the product is what grows
    nodes = [
        node("MatMul", ["x", "v"], ["z"]),
        node("Loop", ["times", "go_at_first", "z"], ["y"], body=grows),
    ]
    model = model_of(nodes, ["y"], [value("times", [1], INT64)], COUNTED | {"v": W + 1})
    feed = {"x": X, "times": np.array([times])}
    network, unseen = observed_network(model, feed), normalise(model, {"x": (3, 4), "times": ()})
    rows = sum(3 * (2 + time) for time in range(times))
    assert {site.weight: (site.macs, site.macs_known) for site in network.sites} == {
        "v": (3 * 4 * 4, True),
        "w": (rows * 4 * 4, True),
    }
    assert {site.weight: site.macs_known for site in unseen.sites} == {"v": True, "w": False}


def brought(axes: list[Any], samples: NDArray[Any], batching: Batching | None = None) -> Network:
    """The proved network of one product, with inputs of these axes."""
    model = model_of([node("MatMul", ["x", "w"], ["y"])], ["y"])
    model.graph.input[0].CopyFrom(value("x", axes))
    uploaded = model.SerializeToString()
    shapes = {"x": shape_of_sample(samples)}
    return faithful(uploaded, admit(uploaded, AdmissionLimits()), {"x": samples}, shapes, batching=batching)


def test_samples_of_several_lengths_cost_what_the_largest_takes() -> None:
    samples = np.empty(3, object)
    samples[:] = [np.ones((length, 4), np.float32) for length in (3, 7, 5)]
    network = brought(["N", "T", 4], samples)
    assert network.observed["y"].shape == (1, 7, 4)
    assert [site.macs for site in network.sites] == [7 * 4 * 4]


@pytest.mark.parametrize(
    ("axes", "batching", "shape"),
    [
        (["N", 3, 4], None, (1, 3, 4)),
        ([5, 3, 4], None, (5, 3, 4)),
        (["T", "N", 4], Batching({"x": 1}, {"y": 1}), (3, 1, 4)),
        ([3, 5, 4], Batching({"x": 1}, {"y": 1}, 5), (3, 5, 4)),
    ],
)
def test_one_sample_costs_the_same_wherever_samples_lie(
    axes: list[Any], batching: Batching | None, shape: tuple[int, ...]
) -> None:
    network = brought(axes, np.repeat(X, 6, axis=0), batching)
    assert network.observed["y"].shape == shape
    assert [site.macs for site in network.sites] == [3 * 4 * 4]

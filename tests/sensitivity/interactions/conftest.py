"""A quadratic whose numbers are exact in float32, an embedding, and ways to make candidates."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from network.execution import TorchNetwork
from network.graph import Network
from network.normalise import from_proto
from sensitivity.estimate import ActivationChange, Change, Subject, WeightChange
from sensitivity.loss import Loss

Inputs = dict[str, np.ndarray]


def _network(nodes, inputs, initializers) -> Network:
    graph = helper.make_graph(
        nodes,
        "small",
        inputs,
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in initializers.items()],
    )
    return from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10))


def _eighths(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Multiples of 1/8 up to 1: products and sums of a few of them have no rounding error in float32."""
    return (rng.integers(-8, 9, size=shape) / 8).astype(np.float32)


@pytest.fixture
def quadratic(rng) -> tuple[Network, tuple[Change, ...], Inputs]:
    """`y = x a + x b + (x e) f` with candidates for a, b and the value `h = x e`: y is linear in all three."""
    network = _network(
        [
            helper.make_node("MatMul", ["x", "a"], ["p"], name="a"),
            helper.make_node("MatMul", ["x", "b"], ["q"], name="b"),
            helper.make_node("MatMul", ["x", "e"], ["h"], name="e"),
            helper.make_node("MatMul", ["h", "f"], ["r"], name="f"),
            helper.make_node("Sum", ["p", "q", "r"], ["y"], name="sum"),
        ],
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])],
        {"a": _eighths(rng, 4, 3), "b": _eighths(rng, 4, 3), "e": _eighths(rng, 4, 3), "f": _eighths(rng, 3, 3)},
    )
    changes: list[Change] = []
    for name in "ab":
        for number in range(2):
            values = network.weight(name) + _eighths(rng, 4, 3)
            changes.append(WeightChange(name, str(number), name, lambda values=values: values))
    for step in (0.5, 1.0):

        def rounding(a: np.ndarray, step: float = step) -> np.ndarray:
            return (step * np.round(a / step)).astype(np.float32)

        changes.append(ActivationChange("h", str(step), {"h": rounding}))
    return network, tuple(changes), {"x": _eighths(rng, 16, 4)}


@pytest.fixture
def embedding(rng) -> Network:
    """Tokens, their embedding (every row of which some token uses), a Tanh, a linear layer over all positions."""
    return _network(
        [
            helper.make_node("Gather", ["table", "x"], ["embedded"], name="table"),
            helper.make_node("Flatten", ["embedded"], ["flat"], name="flatten"),
            helper.make_node("Tanh", ["flat"], ["t"], name="tanh"),
            helper.make_node("MatMul", ["t", "out"], ["y"], name="out"),
        ],
        [helper.make_tensor_value_info("x", TensorProto.INT64, ["N", 3])],
        {
            "table": rng.normal(size=(5, 2)).astype(np.float32),
            "out": rng.normal(size=(6, 4)).astype(np.float32),
        },
    )


@pytest.fixture
def samples_of(rng) -> Callable[[Network, int], Inputs]:
    def make(network: Network, count: int) -> Inputs:
        (spec,) = network.inputs
        shape = (count, *spec.shape[1:])
        if spec.dtype == "int64":
            return {"x": rng.integers(5, size=shape)}
        return {"x": rng.normal(size=shape).astype(np.float32)}

    return make


@pytest.fixture
def perturbations(rng) -> Callable[..., tuple[WeightChange, ...]]:
    """`count` candidates for each weight of a network, each a little off."""

    def make(network: Network, size: float, count: int = 2) -> tuple[WeightChange, ...]:
        changes = []
        for site in network.sites:
            for number in range(count):
                values = (network.weight(site.weight) + size * rng.normal(size=site.shape)).astype(np.float32)
                changes.append(WeightChange(site.name, str(number), site.weight, lambda values=values: values))
        return tuple(changes)

    return make


@pytest.fixture
def subject_of() -> Callable[..., Subject]:
    def make(network: Network, changes: tuple[Change, ...], inputs: Inputs, loss: Loss, **more) -> Subject:
        return Subject(TorchNetwork(network, dtype=torch.float64), changes, inputs, loss, **more)

    return make


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(11)

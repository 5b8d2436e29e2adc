"""Values of weights that are replaced: each is there only as long as something reads it."""

from __future__ import annotations

import tracemalloc
import weakref
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import helper

from network.graph import Network
from quantization.formats import IntegerFormat
from quantization.plans.lockstep import Lockstep
from quantization.plans.sequential import Effort, round_plan
from quantization.rounding.nearest import round_nearest
from quantization.rounding.statistics import InputStatistics, input_statistics
from sensitivity.estimate import WeightChange
from sensitivity.loss import Kind, Loss
from sensitivity.plan_losses import MeasuredPlans

MakeNetwork = Callable[..., Network]
LAYERS, WIDTH = 12, 24


@pytest.fixture
def chain(make_network: MakeNetwork) -> tuple[Network, dict[str, NDArray[Any]]]:
    """Square matrices one behind the other."""
    rng = np.random.default_rng(0)
    weights = {f"w{place}": rng.normal(size=(WIDTH, WIDTH)).astype(np.float32) / 5 for place in range(LAYERS)}
    nodes, value = [], "x"
    for place, name in enumerate(weights):
        nodes.append(helper.make_node("MatMul", [value, name], [f"m{place}"]))
        value = "y" if place == LAYERS - 1 else f"r{place}"
        nodes.append(helper.make_node("Tanh", [f"m{place}"], [value]))
    inputs = {"x": rng.normal(size=(16, WIDTH)).astype(np.float32)}
    return make_network(nodes, inputs, weights), inputs


def test_a_plan_keeps_the_values_of_the_layers_that_come(chain, monkeypatch: pytest.MonkeyPatch) -> None:
    network, inputs = chain
    given = [site.weight for site in network.sites]
    weights = {name: round_nearest(network.weight(name), IntegerFormat(4), 1) for name in given}
    counts = []
    advance = Lockstep.advance

    def counted(lockstep: Lockstep, cut: int, replaced: Mapping[str, Any]) -> Iterator[int]:
        counts.append(len(replaced))
        return advance(lockstep, cut, replaced)

    monkeypatch.setattr(Lockstep, "advance", counted)
    rounded = round_plan(network, weights, inputs, {}, Effort(1))
    assert len(counts) == LAYERS
    assert max(counts) <= 1, "only the layer that was just rounded lies ahead"
    assert set(rounded.weights) == set(given)


def test_a_measured_plan_makes_one_weight_at_a_time(chain) -> None:
    network, inputs = chain
    alive, most = set[int](), []

    def values(name: str) -> NDArray[np.float32]:
        made = 0.9 * network.weight(name)
        alive.add(id(made))
        weakref.finalize(made, alive.discard, id(made))
        most.append(len(alive))
        return made

    changes = [WeightChange(site.name, "f", site.weight, partial(values, site.weight)) for site in network.sites]
    measured = MeasuredPlans(network, changes, inputs, Loss.of(Kind.SQUARED_ERROR, "y"))
    assert measured.losses(range(LAYERS)).mean() > 0
    assert len(most) == LAYERS
    assert max(most) <= 2, "one is written while the next is made"


def test_statistics_take_no_memory_before_their_inputs(make_network: MakeNetwork) -> None:
    weight = np.zeros((512, 8), np.float32)
    network = make_network(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], {"x": np.zeros((4, 512), np.float32)}, {"w": weight}
    )
    tracemalloc.start()
    try:
        statistics = input_statistics(network, network.sites[0])
        assert tracemalloc.get_traced_memory()[1] < 200_000
    finally:
        tracemalloc.stop()
    assert isinstance(statistics, InputStatistics)
    assert statistics.memory_bytes == 8 * 512 * 512 == statistics.hessian.nbytes

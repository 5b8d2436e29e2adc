"""Latencies of pairs of decisions as a sum over sites."""

from __future__ import annotations

import itertools

import onnx
import pytest

from network.activations import find_activations
from network.graph import Network
from network.normalise import normalise
from quantization.formats import UnsignedFormat
from workers.stages.latency_table import LatencyTable, entry

WEIGHTS = ["int4/channel", "int8/channel"]
UINT8, UINT16 = UnsignedFormat(8), UnsignedFormat(16)


@pytest.fixture(scope="module")
def network(model) -> Network:
    return normalise(onnx.ModelProto.FromString(model), {"image": (1, 8, 8)})


def table(cell) -> LatencyTable:
    """`cell(site, weight, activation)` in milliseconds."""
    sites = {
        site: {
            entry(weight, activation): {"ms": cell(site, weight, activation)}
            for weight in ["float32", *WEIGHTS]
            for activation in (None, UINT8, UINT16)
        }
        for site in ("conv1", "conv2", "fc")
    }
    return LatencyTable({"source": "given", "base_ms": 0.5, "sites": sites})


def additive(site: str, weight: str, activation: UnsignedFormat | None) -> float:
    """Eight bits halve the time, sixteen double it, each weight adds a little of its own."""
    times = {None: 1.0, UINT8: 0.5, UINT16: 2.0}
    return len(site) * times[activation] + {"float32": 0.1, "int4/channel": 0.01, "int8/channel": 0.02}[weight]


def test_without_planned_activations_it_is_the_table_itself(network):
    found = table(additive).attributed(network, dict.fromkeys(("conv1", "conv2", "fc"), WEIGHTS))
    assert found == {
        site: {weight: additive(site, weight, None) for weight in WEIGHTS} for site in ("conv1", "conv2", "fc")
    }


def readers(network: Network) -> dict[str, str]:
    """The activation site that each layer reads."""
    read = {"conv1": "image", "conv2": "r1", "fc": "r2"}
    names = {tensor: site.name for site in find_activations(network) for tensor in site.tensors}
    return {site: names[tensor] for site, tensor in read.items()}


@pytest.mark.parametrize("formats", [["uint8/tensor"], ["uint8/tensor", "uint16/tensor"], ["float32", "uint8/tensor"]])
def test_the_sum_is_the_plan_s_latency(network, formats):
    """Exactly, for any plan, where widths of weights and of activations each add their own."""
    found_by = readers(network)
    activations = {site.name: formats for site in find_activations(network)}
    allowed = {**dict.fromkeys(("conv1", "conv2", "fc"), WEIGHTS), **activations}
    known = table(additive)
    found = known.attributed(network, allowed)
    assert {site: list(entries) for site, entries in found.items()} == allowed
    assert min(ms for entries in found.values() for ms in entries.values()) >= 0
    parsed = {"float32": None, "uint8/tensor": UINT8, "uint16/tensor": UINT16}
    for choice in itertools.product(*allowed.values()):
        plan = dict(zip(allowed, choice, strict=True))
        expected = sum(known.ms(site, plan[site], parsed[plan[found_by[site]]]) for site in found_by)
        assert sum(found[site][format_] for site, format_ in plan.items()) == pytest.approx(expected)


def test_with_one_format_of_activations_any_table_is_exact(network):
    def crossed(site: str, weight: str, activation: UnsignedFormat | None) -> float:
        return float(len(site) * len(weight) * (7 if activation is None else activation.bits))

    activations = {site.name: ["uint8/tensor"] for site in find_activations(network)}
    allowed = {**dict.fromkeys(("conv1", "conv2", "fc"), WEIGHTS), **activations}
    found = table(crossed).attributed(network, allowed)
    assert all(found[site] == {weight: crossed(site, weight, UINT8) for weight in WEIGHTS} for site in readers(network))
    assert all(found[name] == {"uint8/tensor": 0.0} for name in activations)

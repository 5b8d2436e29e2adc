"""Calibration in several groups: the same weights, progress that only grows, one group's statistics at a time. What an
earlier attempt rounded stays. And activations where they are asked for."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from network.activations import find_activations
from network.errors import UnsupportedOperators
from network.execution import TorchNetwork
from network.normalise import dump, normalise
from network.taps import Taps
from pipeline.candidates import Candidates
from pipeline.stages import calibrate
from quantization.formats import UnsignedFormat
from quantization.rounding.formats import round_to_formats
from quantization.rounding.statistics import InputStatistics

REQUEST = {"weights": {"bits": [3], "refinement": "none"}, "budget": {"max_drop": 0.5}}


def test_groups_change_no_weight_and_hold_one_statistic_at_a_time(job, model, samples, monkeypatch):
    together = job(model, samples, REQUEST).run()
    most: list[int] = []
    filled: list[weakref.ref[InputStatistics]] = []
    collect = InputStatistics.add

    def add(self, *arguments):
        if all(seen() is not self for seen in filled):
            filled.append(weakref.ref(self))
        most.append(sum(seen() is not None for seen in filled))
        collect(self, *arguments)

    monkeypatch.setattr(InputStatistics, "add", add)
    monkeypatch.setattr(calibrate, "MOST_STATISTICS_BYTES", 1)
    gc.disable()  # what is freed is freed because nobody holds it
    try:
        apart = job(model, samples, REQUEST).run()
    finally:
        gc.enable()
    assert len(filled) == 3
    assert max(most) == 1
    assert apart.artifacts["model"] == together.artifacts["model"]


def test_a_group_whose_sums_take_long_is_two(job, model, samples, monkeypatch):
    together = job(model, samples, REQUEST).run()
    groups: list[list[str]] = []
    gptq = calibrate._Rounding.gptq

    def seen(self, sites):
        groups.append([site.name for site in sites])
        return gptq(self, sites)

    monkeypatch.setattr(calibrate._Rounding, "gptq", seen)
    monkeypatch.setattr(calibrate, "LEAST_MACS", 1)
    monkeypatch.setattr(calibrate, "LEAST_SUMS", 0)
    apart = job(model, samples, REQUEST).run()
    first, second = groups[0], groups[2]  # each is rounded, and then read
    assert first
    assert second
    assert not set(first) & set(second)
    assert apart.artifacts["model"] == together.artifacts["model"]


@pytest.fixture
def calibration(job) -> Callable[..., Any]:
    """`calibration(model, samples, **request)`: a job whose network is normalised and not admitted."""

    def make(model: bytes, samples: Mapping[str, np.ndarray], **request: Any) -> Any:
        run = job(model, samples, {**REQUEST, **request})
        run.results[run.keys["normalise"]] = dump(normalise(onnx.load_from_string(model)))
        return run

    return make


@pytest.mark.parametrize("rounding", ["gptq", "nearest"])
def test_what_an_earlier_attempt_rounded_is_not_rounded_again(model, samples, calibration, monkeypatch, rounding):
    """A killed worker loses the weight it was at, and the forward passes of the weights that are left."""
    weights = {**REQUEST["weights"], "rounding": rounding}
    expected = calibration(model, samples, weights=weights).result_of("calibrate")
    run = calibration(model, samples, weights=weights)
    rounded: list[tuple[int, ...]] = []
    counted: list[str] = []
    collect = InputStatistics.add
    fails_at = 2

    def count(self, layer, *arguments):
        counted.append(layer.weight)
        collect(self, layer, *arguments)

    def round_once(weight, *arguments):
        if len(rounded) == fails_at:
            raise MemoryError
        rounded.append(weight.shape)
        return round_to_formats(weight, *arguments)

    monkeypatch.setattr(InputStatistics, "add", count)
    monkeypatch.setattr(calibrate, "round_to_formats", round_once)
    with pytest.raises(MemoryError):
        run.result_of("calibrate")
    assert len([key for key in run.results if key.startswith(f"{run.keys['calibrate']}/")]) == 2
    fails_at = 3
    counted.clear()
    again = replace(run, fractions=[])
    assert again.result_of("calibrate") == expected
    assert rounded == [(12, 1, 3, 3), (24, 12, 3, 3), (10, 216)]
    assert set(counted) == ({"fc.weight"} if rounding == "gptq" else set())


def test_activations_are_calibrated_where_the_request_asks(model, samples, calibration):
    with_activations = calibration(model, samples, activations={"bits": [8, 4]})
    blob = with_activations.result_of("calibrate")
    unpacked = Candidates.unpack(blob)
    found = tuple(unpacked.activations.values())
    inputs = with_activations.context.workspace.inputs(with_activations.config.calibrate.samples)
    network = inputs.network
    assert tuple(candidates.site for candidates in found) == find_activations(network)
    assert [candidates.site.tensors for candidates in found] == [("image",), ("r1",), ("r2", "f")]
    images = samples["image"][inputs.range_samples]
    changes = {(change.site, change.format): change for change in unpacked.changes(network)}
    seen: dict[str, np.ndarray] = {}
    Taps(network, ["image", "r1", "r2"], 1).run({"image": images}, lambda name, values: seen.update({name: values}))
    for candidates in found:
        assert [activation.format.bits for activation in candidates.formats] == [4, 8]
        values = seen[candidates.site.name]
        errors = []
        for activation in candidates.formats:
            ((name, change),) = changes[candidates.site.name, activation.format.name].tensors.items()
            assert name == candidates.site.name
            errors.append(np.square(change(values) - values).mean() / np.square(values).mean())
            quantized = candidates.quantized(activation.format)
            assert quantized == dict.fromkeys(candidates.site.tensors, activation)
        assert errors[0] < 0.02
        assert errors[1] < errors[0] / 50
    with pytest.raises(KeyError, match="image was not calibrated as uint16/tensor"):
        found[0].quantized(UnsignedFormat(16))
    without = calibration(model, samples).result_of("calibrate")
    assert not Candidates.unpack(without).activations
    for name, weights in Candidates.unpack(without).weights.items():
        for one, other in zip(weights, Candidates.unpack(blob).weights[name], strict=True):
            np.testing.assert_array_equal(one.codes, other.codes)


def test_what_torch_cannot_run_is_calibrated_all_the_same(model, samples, calibration):
    """Calibration asks only ONNX Runtime; no operator needs a rule of ours."""
    proto = onnx.load_from_string(model)
    proto.graph.node.append(helper.make_node("Bernoulli", ["image"], ["coin"], seed=0.0))
    proto.graph.output.append(helper.make_tensor_value_info("coin", TensorProto.FLOAT, None))
    run = calibration(proto.SerializeToString(), samples)
    with pytest.raises(UnsupportedOperators, match="Bernoulli"):
        TorchNetwork(run.context.workspace.network())
    assert set(Candidates.unpack(run.result_of("calibrate")).weights) == {"conv1", "conv2", "fc"}

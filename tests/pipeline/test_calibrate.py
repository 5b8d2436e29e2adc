"""Calibration in several groups: the same weights, progress that only grows, one group's statistics at a time. What an
earlier attempt rounded stays. And activations where they are asked for."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from app.schemas.job_request import JobRequest
from network.activations import find_activations
from network.errors import UnsupportedOperators
from network.execution import TorchNetwork
from network.normalise import dump, load, normalise
from network.taps import Taps
from pipeline.candidates import Rounded
from pipeline.stages import calibrate
from pipeline.workspace import Inputs
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
    monkeypatch.setattr(calibrate, "STATISTICS_BYTES", 1)
    gc.disable()  # what is freed is freed because nobody holds it
    try:
        apart = job(model, samples, REQUEST).run()
    finally:
        gc.enable()
    assert len(filled) == 3
    assert max(most) == 1
    assert apart.artifacts["model"] == together.artifacts["model"]


@dataclass
class Calibration:
    """What the stage sees of a job whose network is normalised."""

    request: Mapping[str, Any]
    dataset_path: Path | None
    normalised: bytes
    threads: int = 1
    memory_limit_bytes: int | None = None
    chunks: dict[str, bytes] = field(default_factory=dict)
    fractions: list[float] = field(default_factory=list)

    def read(self, stage: str) -> bytes:
        assert stage == "normalise"
        return self.normalised

    def chunk(self, name: str, compute: Callable[[], bytes]) -> bytes:
        if name not in self.chunks:
            self.chunks[name] = compute()
        return self.chunks[name]

    def progress(self, fraction: float) -> None:
        assert 0 <= fraction <= 1
        assert not self.fractions or fraction >= self.fractions[-1], "progress runs backwards"
        self.fractions.append(fraction)

    def check(self) -> None:
        pass


def calibration(model: bytes, samples: Mapping[str, np.ndarray], path: Path, bits: list[int] | None) -> Calibration:
    fields = {"model_id": "0" * 64, "dataset_id": "1" * 64, **REQUEST}
    full = JobRequest.model_validate(fields, strict=False).model_dump(mode="json")
    np.savez(path / "data.npz", **samples)
    network = normalise(onnx.load_from_string(model))
    return Calibration({**full, "activations": {"bits": bits, "ranges": "mse"}}, path / "data.npz", dump(network))


@pytest.mark.parametrize("rounding", ["gptq", "nearest"])
def test_what_an_earlier_attempt_rounded_is_not_rounded_again(model, samples, tmp_path, monkeypatch, rounding):
    """A killed worker loses the weight it was at, and the forward passes of the weights that are left."""
    context = calibration(model, samples, tmp_path, None)
    context = replace(
        context, request={**context.request, "weights": {**context.request["weights"], "rounding": rounding}}
    )
    expected = calibrate.run(replace(context, chunks={}, fractions=[]))
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
        calibrate.run(context)
    assert len(context.chunks) == 2
    fails_at = 3
    counted.clear()
    context.fractions.clear()
    assert calibrate.run(context) == expected
    assert rounded == [(12, 1, 3, 3), (24, 12, 3, 3), (10, 216)]
    assert set(counted) == ({"fc.weight"} if rounding == "gptq" else set())


def test_activations_are_calibrated_where_the_request_asks(model, samples, tmp_path):
    with_activations = calibration(model, samples, tmp_path, [8, 4])
    blob = calibrate.run(with_activations)
    found = tuple(Rounded.unpack(blob).activations.values())
    network = load(with_activations.normalised)
    assert tuple(candidates.site for candidates in found) == find_activations(network)
    assert [candidates.site.tensors for candidates in found] == [("image",), ("r1",), ("r2", "f")]
    images = samples["image"][Inputs.read(with_activations).range_samples]
    seen: dict[str, np.ndarray] = {}
    Taps(network, ["image", "r1", "r2"], 1).run({"image": images}, lambda name, values: seen.update({name: values}))
    for candidates in found:
        assert [activation.format.bits for activation in candidates.formats] == [4, 8]
        values = seen[candidates.site.name]
        errors = []
        for activation in candidates.formats:
            ((name, change),) = candidates.changes(activation.format).items()
            assert name == candidates.site.name
            errors.append(np.square(change(values) - values).mean() / np.square(values).mean())
            quantized = candidates.quantized(activation.format)
            assert quantized == dict.fromkeys(candidates.site.tensors, activation)
        assert errors[0] < 0.02
        assert errors[1] < errors[0] / 50
    with pytest.raises(KeyError, match="image was not calibrated as uint16/tensor"):
        found[0].quantized(UnsignedFormat(16))
    without = calibrate.run(calibration(model, samples, tmp_path, None))
    assert not Rounded.unpack(without).activations
    for name, weights in Rounded.unpack(without).weights.items():
        for one, other in zip(weights, Rounded.unpack(blob).weights[name], strict=True):
            np.testing.assert_array_equal(one.codes, other.codes)


def test_what_torch_cannot_run_is_calibrated_all_the_same(model, samples, tmp_path):
    """Calibration asks only ONNX Runtime; no operator needs a rule of ours."""
    proto = onnx.load_from_string(model)
    proto.graph.node.append(helper.make_node("Bernoulli", ["image"], ["coin"], seed=0.0))
    proto.graph.output.append(helper.make_tensor_value_info("coin", TensorProto.FLOAT, None))
    context = calibration(proto.SerializeToString(), samples, tmp_path, None)
    with pytest.raises(UnsupportedOperators, match="Bernoulli"):
        TorchNetwork(load(context.normalised))
    assert set(Rounded.unpack(calibrate.run(context)).weights) == {"conv1", "conv2", "fc"}

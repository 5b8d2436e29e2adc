"""Files written to a path, in one piece or in two, against `export` and ONNX Runtime."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import helper

from network.graph import Network
from quantization.errors import FileNotAudited, QuantizationError
from quantization.export.audit import audit
from quantization.export.export import export
from quantization.export.on_demand import RoundedOnDemand
from quantization.export.write import ALIGNMENT, write
from quantization.export.write_fields import LARGEST_MESSAGE
from quantization.formats import Granularity, HalfFormat, IntegerFormat, WeightFormat
from quantization.rounding.nearest import round_nearest
from quantization.storage.weights import QuantizedWeight

MakeNetwork = Callable[..., Network]
FORMATS: list[WeightFormat] = [
    *(IntegerFormat(bits) for bits in range(2, 9)),
    IntegerFormat(4, Granularity.BLOCK, False, 32),
    HalfFormat(),
]


def chain(make_network: MakeNetwork) -> tuple[Network, dict[str, WeightFormat], NDArray[np.float32]]:
    """A MatMul in each format, and one that stays float."""
    rng = np.random.default_rng(0)
    sizes = [128, 160] * 5 + [128]
    weights = {
        f"w{i}": rng.standard_normal((a, b)).astype(np.float32) / 12
        for i, (a, b) in enumerate(itertools.pairwise(sizes))
    }
    nodes = [helper.make_node("MatMul", [f"h{i}", f"w{i}"], [f"h{i + 1}"]) for i in range(len(weights))]
    x = rng.standard_normal((2, 128)).astype(np.float32)
    return make_network(nodes, {"h0": x}, weights), {f"w{i}": f for i, f in enumerate(FORMATS)}, x


def run(model: str | bytes, x: NDArray[np.float32]) -> NDArray[Any]:
    return np.asarray(onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, {"h0": x})[0])


def test_one_file_has_the_bytes_of_the_export(make_network: MakeNetwork, tmp_path: Path) -> None:
    network, formats, _ = chain(make_network)
    weights = {
        s.weight: round_nearest(network.weight(s.weight), formats[s.weight], s.channel_axis) for s in network.sites[:-1]
    }
    path = tmp_path / "model.onnx"
    size = write(network, RoundedOnDemand(network, formats), path, {"k": "v"})
    assert path.read_bytes() == export(network, weights, {"k": "v"})
    assert size == path.stat().st_size
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.onnx"]


def test_what_is_too_large_for_one_file_is_two(make_network: MakeNetwork, tmp_path: Path) -> None:
    network, formats, x = chain(make_network)
    weights = RoundedOnDemand(network, formats)
    path = tmp_path / "model.onnx"
    size = write(network, weights, path, {"k": "v"}, largest_file=100_000)
    data = tmp_path / "model.onnx.data"
    assert size == path.stat().st_size + data.stat().st_size
    assert path.stat().st_size < 30_000
    onnx.checker.check_model(str(path), full_check=True)
    whole = export(network, weights, {"k": "v"})
    assert run(str(path), x).tobytes() == run(whole, x).tobytes()
    outside = [t for t in onnx.load(path, load_external_data=False).graph.initializer if t.external_data]
    places = [{entry.key: entry.value for entry in tensor.external_data} for tensor in outside]
    assert all(place["location"] == "model.onnx.data" and int(place["offset"]) % ALIGNMENT == 0 for place in places)
    assert "w9" in {tensor.name for tensor in outside}  # the float one too
    loaded = onnx.load(path)
    for tensor in loaded.graph.initializer:
        tensor.ClearField("external_data")
        tensor.ClearField("data_location")
    assert loaded == onnx.ModelProto.FromString(whole)
    report, expected = audit(path), audit(whole)
    assert report.weights == expected.weights
    assert report.total_bytes == size


def test_the_audit_looks_beside_the_file_only(make_network: MakeNetwork, tmp_path: Path) -> None:
    network, formats, _ = chain(make_network)
    path, data = tmp_path / "model.onnx", tmp_path / "model.onnx.data"
    write(network, RoundedOnDemand(network, formats), path, {}, largest_file=100_000)
    with pytest.raises(FileNotAudited, match=r"'model.onnx.data', which is no file beside the model; audit .* path"):
        audit(path.read_bytes())
    values = data.read_bytes()
    data.write_bytes(values[:-5])
    with pytest.raises(FileNotAudited, match="ends before its values"):
        audit(path)
    data.write_bytes(values)
    model = onnx.load(path, load_external_data=False)
    tensor = next(t for t in model.graph.initializer if t.external_data)
    for key, value, message in (
        ("location", "../model.onnx.data", "no file beside"),
        ("length", "-1", "the length of its values is '-1', expected a number"),
        ("length", "4096", "w9 holds 4096 bytes, expected 81920"),
    ):
        entry = next(entry for entry in tensor.external_data if entry.key == key)
        kept, entry.value = entry.value, value
        path.write_bytes(model.SerializeToString())
        with pytest.raises(FileNotAudited, match=message):
            audit(path)
        entry.value = kept


def test_nothing_is_left_of_a_file_that_fails(make_network: MakeNetwork, tmp_path: Path) -> None:
    network, formats, _ = chain(make_network)
    lazy = RoundedOnDemand(network, formats, lambda w, _, axis: round_nearest(w, IntegerFormat(8), axis))
    for largest in (LARGEST_MESSAGE, 100_000):
        with pytest.raises(QuantizationError, match=r"weight w0 was made as int8/channel .* stated for it: int2"):
            write(network, lazy, tmp_path / "model.onnx", {}, largest_file=largest)
        assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="at most 2147483647 bytes, got a limit of 2147483648"):
        write(network, lazy, tmp_path / "model.onnx", {}, largest_file=1 << 31)


@pytest.mark.parametrize("before", [LARGEST_MESSAGE, 100_000])
@pytest.mark.parametrize("after", [LARGEST_MESSAGE, 100_000])
def test_a_model_never_lies_beside_the_values_of_another(
    make_network: MakeNetwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: int, after: int
) -> None:
    """Stopped before each of the steps that change names: an old model, a new one, or none."""
    network, formats, x = chain(make_network)
    path, data = tmp_path / "model.onnx", tmp_path / "model.onnx.data"
    old, new = RoundedOnDemand(network, {"w0": HalfFormat()}), RoundedOnDemand(network, formats)
    results = [run(export(network, lazy, {}), x).tobytes() for lazy in (_held(network, old), _held(network, new))]
    assert results[0] != results[1]
    stops, states = 0, []
    while True:
        data.unlink(missing_ok=True)
        with monkeypatch.context() as patches:
            write(network, old, path, {}, largest_file=before)
            allowed = iter(range(stops))
            for owner, name in ((os, "replace"), (Path, "unlink")):
                patches.setattr(owner, name, _until(allowed, getattr(owner, name)))
            try:
                write(network, new, path, {}, largest_file=after)
                finished = True
            except KeyboardInterrupt:
                finished = False
        states.append(results.index(run(str(path), x).tobytes()) if path.exists() else None)
        if path.exists():
            audit(path)
        if finished:
            break
        stops += 1
    assert (states[0], states[-1]) == (0, 1)
    assert data.exists() is (after == 100_000)
    assert not list(tmp_path.glob("*.part"))


def _held(network: Network, lazy: RoundedOnDemand) -> dict[str, QuantizedWeight]:
    return {name: lazy[name] for name in lazy}


def _until(allowed: Iterator[int], step: Callable[..., Any]) -> Callable[..., Any]:
    """`step`, until the steps that are allowed are used up; from there on the process is as good as killed."""

    def stopped(*args: Any, **kwargs: Any) -> Any:
        if next(allowed, None) is None:
            raise KeyboardInterrupt
        return step(*args, **kwargs)

    return stopped

"""The time to load as a limit: predicted and kept by plans, measured where it is asked for; zeros among codes; and
coded formats of tables that Gather reads."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import pipeline
from evaluation.latency import Latency
from pipeline.stages import certify
from planner.errors import LimitUnreachable
from quantization.export.audit import audit
from quantization.formats import CodedFormat, weight_format
from quantization.storage.coded import CodedWeight, encode
from quantization.storage.loading import weight_load_ms
from quantization.storage.unpacking import DOMAIN
from tests.pipeline.test_tables import floats, node, row
from tests.pipeline.test_tables import model as network_of

# without the codes of 3 bits, whose single bits are unpacked, weights are larger and load faster
FORMATS = ["int3/channel", "int8/channel"]
REQUEST = {"budget": {"metric": "kl", "max_drop": 1.0}, "weights": {"formats": FORMATS}}


class FakeMachine:
    """Loads a file in a millisecond for each kilobyte."""

    def __init__(self) -> None:
        self.loaded: list[bytes] = []

    def measure(self, models: Sequence[bytes], threads: int, **_: Any) -> list[Latency]:
        self.loaded += models
        return [Latency(len(file) / 1000, 0.01, 5) for file in models]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> FakeMachine:
    found = FakeMachine()
    monkeypatch.setattr(certify, "measure_loading", found.measure)
    return found


@pytest.fixture(scope="module")
def known() -> dict[str, bytes]:
    return {}


@pytest.fixture
def ask(known, job, model, samples, machine) -> Callable[..., Any]:
    """`ask(**request)`: a job; all find one analysis."""
    if not known:
        job(model, samples, REQUEST, known).run()
    results = dict(known)
    return lambda **request: job(model, samples, {**REQUEST, **request}, results)


def delivered(run) -> tuple[dict[str, Any], dict[str, Any], bytes]:
    artifacts = run.run().artifacts
    return json.loads(artifacts["plan"]), json.loads(artifacts["frontier"]), artifacts["model"]


def predicted(plan: dict[str, Any]) -> float:
    return plan["load"]["base_ms"] + sum(layer["load_ms"] for layer in plan["layers"])


def test_every_plan_tells_what_it_takes_to_load_and_depends_on_no_clock(ask, machine):
    plan, *_ = delivered(ask())
    assert set(plan["load"]) == {"predicted_ms", "base_ms", "float_ms"}
    assert machine.loaded == []
    assert plan["load"]["predicted_ms"] == predicted(plan)
    assert {layer["format"] for layer in plan["layers"]} == {"int3/channel"}
    for layer in plan["layers"]:
        alone = weight_load_ms(weight_format(layer["format"]), layer["weights"])
        assert layer["load_ms"] == pytest.approx(alone, abs=1e-6)
    in_floats = sum(weight_load_ms(weight_format("float32"), layer["weights"]) for layer in plan["layers"])
    assert plan["load"]["float_ms"] == pytest.approx(plan["load"]["base_ms"] + in_floats, abs=1e-5)


def test_a_limit_is_kept_by_every_plan_and_both_files_are_timed(ask, machine):
    free, *_ = delivered(ask())
    limit = free["load"]["predicted_ms"] - 1.0
    run = ask(limits={"max_load_ms": limit})
    plan, frontier, file = delivered(run)
    assert run.ran == ["resolve", "plan", "certify"]
    assert plan["load"]["predicted_ms"] == predicted(plan) <= limit
    assert plan["size_bytes"] > free["size_bytes"]
    cost = {
        (layer["name"], name): weight_load_ms(weight_format(name), layer["weights"])
        for layer in plan["layers"]
        for name in FORMATS
    }
    for point in frontier["points"]:
        total = plan["load"]["base_ms"] + sum(cost[chosen] for chosen in point["formats"].items())
        assert total <= limit + 1e-5
    floats, quantized = machine.loaded
    assert quantized == file
    assert floats != file
    assert plan["load"]["threads"] == 1
    assert "ONNX Runtime" in plan["load"]["machine"]
    measured = plan["load"]["measured"]
    assert measured["quantized"] == {"median_ms": len(file) / 1000, "spread_ms": 0.01, "runs": 5}
    assert measured["float"]["median_ms"] == len(floats) / 1000


def test_what_is_measured_changes_no_plan(ask, machine, monkeypatch):
    """A machine that is a thousand times as slow gets the same file for the same limit."""
    free, *_ = delivered(ask())
    limits = {"max_load_ms": free["load"]["predicted_ms"] - 1.0}
    run = ask(limits=limits)
    first, _, file = delivered(run)
    del run.results[run.keys["certify"]]
    monkeypatch.setattr(certify, "measure_loading", lambda models, *_, **__: [Latency(9e9, 1.0, 5)] * len(models))
    second, _, again = delivered(ask(limits=limits))
    assert again == file
    assert second["load"].pop("measured") != first["load"].pop("measured")
    assert second == first


def test_the_least_drop_within_a_time_to_load(ask):
    free, *_ = delivered(ask())
    limit = free["load"]["predicted_ms"] - 2.0
    plan, frontier, _ = delivered(ask(objective="accuracy", limits={"max_load_ms": limit}))
    assert (frontier["cost"], frontier["unit"]) == ("load", "milliseconds to load")
    assert plan["load"]["predicted_ms"] <= limit
    assert [layer["format"] for layer in plan["layers"]].count("int8/channel") >= 2


def test_a_limit_that_no_plan_keeps_is_refused_at_once(ask):
    run = ask(limits={"max_load_ms": 0.5})
    text = r"limits\.max_load_ms is 0\.5, but the cheapest plan .* has (.*); raise .* or allow formats that load faster"
    with pytest.raises(LimitUnreachable, match=text) as caught:
        run.run()
    assert run.ran == []  # in `resolve`
    nearest = float(str(caught.value).partition(" has ")[2].partition(";")[0])
    plan, *_ = delivered(ask(limits={"max_load_ms": nearest}))
    assert {layer["format"] for layer in plan["layers"]} == {"int8/channel"}


def test_with_a_limit_on_the_size_both_are_named(ask):
    free, *_ = delivered(ask())
    limits = {"max_size_bytes": free["size_bytes"] + 100, "max_load_ms": free["load"]["predicted_ms"] - 2.0}
    run = ask(limits=limits)
    with pytest.raises(LimitUnreachable, match=r"together: max_size_bytes .*, max_load_ms .* \(the least that"):
        run.run()
    assert run.ran == []


def test_a_small_file_that_loads_fast_enough_is_found_where_no_plan_of_one_width_is_either(ask):
    """Of one width, files are too large or too slow."""
    free, *_ = delivered(ask())
    widest, *_ = delivered(ask(limits={"max_load_ms": free["load"]["base_ms"] + 1.0}))
    limits = {"max_size_bytes": 4700, "max_load_ms": free["load"]["predicted_ms"] - 0.5}
    assert free["size_bytes"] < limits["max_size_bytes"] < widest["size_bytes"]
    plan, *_ = delivered(ask(limits=limits))
    assert plan["size_bytes"] <= limits["max_size_bytes"]
    assert plan["load"]["predicted_ms"] <= limits["max_load_ms"]
    assert {layer["format"] for layer in plan["layers"]} == set(FORMATS)


def test_rows_tell_the_zeros_among_the_codes_of_the_delivered_file(ask, samples):
    plan, _, file = delivered(ask(layers={"conv2": {"keep": True}}))
    assert {layer["format"] for layer in plan["layers"]} == {"int3/channel", "float32"}
    stored = at_load(file, [layer["weight"] for layer in plan["layers"]], {"image": samples["image"][:1]})
    for layer in plan["layers"]:
        assert layer["sparsity"] == pytest.approx((stored[layer["weight"]] == 0).mean(), abs=1e-12)
    shares = {layer["name"]: layer["sparsity"] for layer in plan["layers"]}
    assert shares["conv2"] == 0 < min(shares["conv1"], shares["fc"])


def at_load(file: bytes, names: Sequence[str], feeds: dict[str, Any]) -> dict[str, np.ndarray[Any, Any]]:
    """Weights of a file by name, as ONNX Runtime computes them."""
    proto = onnx.load_from_string(file)
    del proto.graph.output[:]
    proto.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return dict(zip(names, session.run(None, feeds), strict=True))


@pytest.mark.parametrize("opset", [18, 25])
def test_a_table_of_words_gets_a_coded_format_and_its_rows_are_read_exactly(opset):
    """Gather reads rows of what is decoded at load: of every word the values that the codes stand for."""
    words, width = 300, 40
    nodes = [node("Gather", ["words", "ids"], ["h"]), node("MatMul", ["h", "W"], ["y"])]
    constants = {"words": floats(words, width), "W": floats(width, 8)}
    uploaded = network_of(nodes, {"ids": (TensorProto.INT64, ["N", "L"])}, ["N", "L", 8], **constants)
    formats = ["coded2.3/tensor", "coded3.5/tensor"]
    request = {
        "budget": {"max_drop": 0.5},
        "layers": {"words": {"formats": formats}, "W": {"keep": True}},
        "opset": opset,
    }
    result = pipeline.plan(uploaded, {"ids": np.random.default_rng(0).integers(0, words, (60, 12))}, request)
    table = row(result, "words")
    assert table["op_type"] == "Gather"
    assert table["format"] in formats
    [stored] = [weight for weight in audit(result.model).weights if weight.name == "words"]
    assert stored.format.name == table["format"]
    assert stored.size_bytes == math.ceil(stored.bits * words * width / 8)
    every = np.arange(words)[None]
    read = at_load(result.model, ["h", "words"], {"ids": every})
    np.testing.assert_array_equal(read["h"][0], read["words"])
    string, step = (numpy_helper.to_array(tensor) for tensor in _parts(result.model))
    expected = CodedFormat(round(10 * stored.bits))
    codes = np.rint(read["words"] / step).astype(np.int8)
    # the codes that ONNX Runtime read make the string of the file again
    np.testing.assert_array_equal(string, encode(codes, expected, string.size))
    np.testing.assert_array_equal(read["words"], CodedWeight(expected, codes, step).dequantize())
    assert np.linalg.norm(read["words"] - constants["words"]) < 0.35 * np.linalg.norm(constants["words"])


def _parts(file: bytes) -> list[onnx.TensorProto]:
    """The string and the step of the only coded weight."""
    graph = onnx.load_from_string(file).graph
    call = next(node for node in graph.node if node.domain == DOMAIN)
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    return [tensors[name] for name in call.input]

"""Jobs for latency on products of matrices: which weights are multiplied packed, by times that the test states."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from app.schemas.job_request import JobRequest
from evaluation.latency import Latency, Timed
from pipeline import timing
from pipeline.configure import FAST_PRODUCTS, configure
from pipeline.results import unpack
from pipeline.stage import Machine
from quantization.export.audit import audit
from quantization.export.products import Products

SHAPES = {"fc1": (64, 96), "fc2": (96, 10)}
BUDGET = {"metric": "agreement", "max_drop": 0.3}


@pytest.fixture(scope="module")
def products() -> bytes:
    return network("N")


@pytest.fixture(scope="module")
def fixed() -> bytes:
    """The same for calls of one sample."""
    return network(1)


def network(batch: int | str) -> bytes:
    rng = np.random.default_rng(0)
    graph = helper.make_graph(
        [
            helper.make_node("Flatten", ["image"], ["f"]),
            helper.make_node("MatMul", ["f", "fc1"], ["h"], "fc1"),
            helper.make_node("Relu", ["h"], ["r"]),
            helper.make_node("MatMul", ["r", "fc2"], ["logits"], "fc2"),
        ],
        "products",
        [helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, [batch, 1, 8, 8])],
        [helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, [batch, 10])],
        [
            numpy_helper.from_array((rng.standard_normal(shape) / 8).astype(np.float32), name)
            for name, shape in SHAPES.items()
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    return bytes(model.SerializeToString())


def operators(file: bytes) -> list[onnx.NodeProto]:
    return [node for node in onnx.ModelProto.FromString(file).graph.node if node.op_type == "MatMulNBits"]


def sums(file: bytes) -> list[str]:
    return [node.name for node in onnx.ModelProto.FromString(file).graph.node if node.op_type == "MatMulInteger"]


def level(node: onnx.NodeProto) -> int:
    return next(attribute.i for attribute in node.attribute if attribute.name == "accuracy_level")


@pytest.fixture
def machine(monkeypatch) -> Callable[..., None]:
    """`machine(packed, summed)`: a float product takes 1 ms, one of packed weights and one that rounds its input so
    much, and the rest of a network 0.5."""

    def state(packed: float, summed: float = 5.0) -> None:
        def measure(timed: Sequence[Timed], threads: int, **_: Any) -> list[Latency]:
            found = []
            for file in timed:
                graph = onnx.ModelProto.FromString(file.model).graph
                count = sum(node.op_type in ("MatMul", "Gemm") for node in graph.node)
                ms = count + packed * len(operators(file.model)) + summed * len(sums(file.model))
                ms += 0.5 * any(n.op_type == "Relu" for n in graph.node)
                found.append(Latency(1.0 if graph.name == "yardstick" else ms, 0.001, 7))
            return found

        monkeypatch.setattr(timing, "measure_alternatives", measure)

    return state


def delivered(run) -> tuple[dict[str, Any], bytes, dict[str, Any]]:
    delivery = run.run()
    document, _ = unpack(run.results[run.keys["latency"]])
    return json.loads(delivery.artifacts["plan"]), delivery.artifacts["model"], document


def test_who_asks_for_latency_alone_gets_packed_products_where_they_pay(job, products, samples, machine):
    machine(0.25)
    plan, file, table = delivered(job(products, samples, {"budget": BUDGET, "objective": "latency"}))
    formats = {layer["name"]: layer["format"] for layer in plan["layers"]}
    assert [level(node) for node in operators(file)] == [4, 4]
    assert set(formats.values()) == {"int4/block32"}
    assert "int4/block128" not in table["sites"]["fc1"]  # whose rows do not divide
    assert plan["latency"]["predicted_ms"] == pytest.approx(1.0, abs=1e-5)
    assert plan["latency"]["difference_ms"] == pytest.approx(0, abs=1e-5)
    assert table["scales"] == {"": pytest.approx(1)}
    assert {weight.name: weight.format.name for weight in audit(file).weights} == formats
    assert plan["audit"]["total_bytes"] == len(file)


def test_where_packed_products_are_slower_none_is_taken(job, products, samples, machine):
    machine(1.5)
    plan, file, table = delivered(job(products, samples, {"budget": BUDGET, "objective": "latency"}))
    assert not operators(file)
    assert table["unpacked"]["fc1"]
    assert plan["latency"]["predicted_ms"] == pytest.approx(2.5, abs=1e-5)


@pytest.mark.parametrize(("packed", "count"), [(0.25, 2), (1.5, 0)])
def test_named_blocks_are_unpacked_where_that_is_faster(job, products, samples, machine, packed, count):
    """The plan has the format that the request names, and the file the faster form of it."""
    machine(packed)
    request = {"budget": BUDGET, "objective": "latency", "weights": {"formats": ["int8/block32"]}}
    plan, file, _ = delivered(job(products, samples, request))
    assert {layer["format"] for layer in plan["layers"]} == {"int8/block32"}
    assert len(operators(file)) == count
    assert plan["latency"]["predicted_ms"] == pytest.approx(0.5 + 2 * min(packed, 1.0), abs=1e-5)
    assert plan["size_bytes"] == len(file)


def test_layers_that_win_alone_and_lose_together_are_unpacked(job, products, samples, machine, monkeypatch):
    machine(0.25)
    alone = timing.measure_alternatives

    def measure(timed: Sequence[Timed], threads: int, **rest: Any) -> list[Latency]:
        together = [len(operators(file.model)) == 2 for file in timed]
        found = alone(timed, threads, **rest)
        return [Latency(4.0, 0.001, 7) if both else own for both, own in zip(together, found, strict=True)]

    monkeypatch.setattr(timing, "measure_alternatives", measure)
    plan, file, _ = delivered(job(products, samples, {"budget": BUDGET, "objective": "latency"}))
    assert not operators(file)
    assert plan["latency"]["predicted_ms"] == pytest.approx(2.5, abs=1e-5)


def test_inputs_are_rounded_at_every_call_where_that_is_fastest(job, fixed, samples, machine):
    machine(0.5, 0.25)
    plan, file, table = delivered(job(fixed, samples, {"budget": BUDGET, "objective": "latency"}))
    assert sums(file) == ["fc1", "fc2"]
    assert not operators(file)
    assert {layer["format"] for layer in plan["layers"]} == {"int8/channel"}
    assert plan["latency"]["predicted_ms"] == pytest.approx(1.0, abs=1e-5)
    assert plan["latency"]["difference_ms"] == pytest.approx(0, abs=1e-5)
    assert plan["size_bytes"] == plan["audit"]["total_bytes"] == len(file)
    assert "int8/channel" not in table["unpacked"].get("fc1", [])


def test_where_rounding_inputs_is_slower_than_float_none_is_rounded(job, fixed, samples, machine):
    machine(2.0, 1.5)
    plan, file, table = delivered(job(fixed, samples, {"budget": BUDGET, "objective": "latency"}))
    assert not sums(file)
    assert not operators(file)
    assert "int8/channel" in table["unpacked"]["fc1"]
    assert plan["latency"]["predicted_ms"] == pytest.approx(2.5, abs=1e-5)


@pytest.mark.parametrize(("packed", "count"), [(0.99, 2), (1.01, 0)])
def test_what_noise_could_explain_is_taken_where_it_looks_faster_and_counts_as_nothing(
    job, fixed, samples, machine, packed, count
):
    machine(2.0, packed)
    request = {
        "budget": BUDGET,
        "objective": "latency",
        "layers": {name: {"formats": ["int8/channel"]} for name in SHAPES},
    }
    plan, file, _ = delivered(job(fixed, samples, request))
    assert len(sums(file)) == count
    assert plan["latency"]["predicted_ms"] == pytest.approx(2.5, abs=1e-5)


def test_samples_that_happen_to_share_a_call_do_not_round_each_other(job, products, samples, machine):
    machine(0.5, 0.25)
    _, file, _ = delivered(job(products, samples, {"budget": BUDGET, "objective": "latency"}))
    assert not sums(file)
    assert len(operators(file)) == 2


def test_a_given_table_has_inputs_rounded_where_it_says_that_this_is_faster(job, fixed, samples, machine):
    machine(0.5, 0.25)  # of what the certificate times
    widths = {f"int{bits}/channel": 1.0 for bits in range(2, 8)}
    table = {
        "base_ms": 0.5,
        "fc1": widths | {"float32": 1.0, "int8/channel": 0.25},
        "fc2": widths | {"float32": 1.0, "int8/channel": 1.0},
    }
    request = {"budget": BUDGET, "objective": "latency", "latency_table": table}
    plan, file, document = delivered(job(fixed, samples, request))
    assert sums(file) == ["fc1"]
    assert document["unpacked"] == {"fc2": ["int8/channel"]}
    assert plan["latency"]["predicted_ms"] == pytest.approx(1.75, abs=1e-5)
    for site in ("fc1", "fc2"):
        del table[site]["float32"]
    _, file, _ = delivered(job(fixed, samples, request))
    assert not sums(file)


def test_named_widths_multiply_in_floats(job, fixed, samples, machine):
    machine(0.5, 0.25)
    request = {"budget": BUDGET, "objective": "latency", "weights": {"bits": [8]}}
    _, file, _ = delivered(job(fixed, samples, request))
    assert not sums(file)


TABLE = {"fc1": {"int8/channel": 1.0}}


@pytest.mark.parametrize(
    ("request_", "added"),
    [
        ({"objective": "latency"}, FAST_PRODUCTS),
        ({"objective": "latency", "target": "integer-w8-a8"}, ()),
        ({"objective": "size"}, ()),
        ({"objective": "latency", "latency_table": TABLE}, ()),
        ({"objective": "latency", "weights": {"bits": [4, 8]}}, ()),
        ({"objective": "latency", "weights": {"granularity": "tensor"}}, ()),
        ({"objective": "latency", "weights": {"symmetric": False}}, ()),
        ({"objective": "latency", "weights": {"formats": ["int4/channel"]}}, ()),
    ],
)
def test_formats_are_added_for_whoever_names_none(request_, added):
    body = {"model_id": "0" * 64, "budget": {"metric": "kl"}, **request_}
    request = JobRequest.model_validate_json(json.dumps(body))
    config = configure(request, Machine(threads=1), "job")
    assert config.resolve.formats.products == config.calibrate.candidates.products == added


@pytest.mark.parametrize(
    ("request_", "products"),
    [
        ({"objective": "latency"}, Products.DYNAMIC),
        ({"limits": {"max_latency_ms": 2.0}}, Products.DYNAMIC),
        ({"objective": "latency", "latency_table": TABLE}, Products.DYNAMIC),
        ({"objective": "latency", "activations": {"bits": [8]}}, Products.DYNAMIC),
        ({"objective": "latency", "target": "integer-w8-a8"}, Products.PACKED),
        ({"objective": "latency", "target": "storage-only"}, Products.PACKED),  # activations stay float32
        ({"objective": "latency", "weights": {"bits": [4, 8]}}, Products.PACKED),
        ({"objective": "latency", "weights": {"formats": ["int8/channel"]}}, Products.PACKED),
        ({"objective": "size"}, Products.FLOAT),
    ],
)
def test_inputs_are_rounded_for_whoever_leaves_formats_to_the_job(request_, products):
    body = {"model_id": "0" * 64, "budget": {"metric": "kl"}, **request_}
    request = JobRequest.model_validate_json(json.dumps(body))
    assert configure(request, Machine(threads=1), "job").certify.space.export.products is products

"""Latency as objective and limit: measured on this machine, given as a table, and what is refused at once."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import pytest

from evaluation.latency import Latency, Timed
from pipeline import timing
from pipeline.results import unpack
from planner.errors import LatencyTableInvalid, LimitUnreachable
from quantization.export.audit import audit

BITS = [2, 4, 8]
REQUEST = {"budget": {"metric": "top1", "max_drop": 0.05}, "weights": {"bits": BITS}}
TABLE = {
    name: {f"int{bits}/channel": bits * scale for bits in BITS} for name, scale in (("conv1", 0.1), ("conv2", 0.5))
}
TABLE["fc.weight"] = {f"int{bits}/channel": 0.25 for bits in BITS}


def named(timed: Timed) -> str:
    return str(onnx.ModelProto.FromString(timed.model).graph.name)


class FakeMachine:
    """Takes a tenth of a millisecond for every bit of every weight, and remembers what it was asked to time.

    It becomes slower with everything that it times, all at once: beside the yardstick that changes nothing.
    """

    def __init__(self) -> None:
        self.timed: list[bytes] = []
        self.slow = 1.0

    def measure(self, timed: Sequence[Timed], threads: int, **_) -> list[Latency]:
        self.timed += [one.model for one in timed if named(one) not in ("nothing", "yardstick")]
        slow, self.slow = self.slow, 1.1 * self.slow
        bits = [sum(weight.bits for weight in audit(one.model).weights) for one in timed]
        return [Latency(slow * (0.05 + one / 10), 0.001, 7) for one in bits]


@pytest.fixture
def machine(monkeypatch) -> FakeMachine:
    found = FakeMachine()
    monkeypatch.setattr(timing, "measure_alternatives", found.measure)
    return found


@pytest.fixture(scope="module")
def known() -> dict[str, bytes]:
    return {}


@pytest.fixture
def ask(known, job, model, samples) -> Callable[..., Any]:
    """`ask(**request)`: a job. All find one analysis, which knows no latency, and what the others of the test found."""
    if not known:
        job(model, samples, REQUEST, known).run()
    results = dict(known)
    return lambda **request: job(model, samples, {**REQUEST, **request}, results)


def delivered(run) -> tuple[dict, dict]:
    delivery = run.run()
    return json.loads(delivery.artifacts["plan"]), json.loads(delivery.artifacts["frontier"])


def test_a_job_for_latency_measures_this_machine(ask):
    """No clock is asserted, only what is derived from it."""
    run = ask(objective="latency")
    plan, frontier = delivered(run)
    assert plan["outcome"] == "met"
    told = plan["latency"]
    assert told["source"] == "measured"
    assert told["samples"] == 1
    assert "ONNX Runtime" in told["machine"]
    layers = sum(layer["latency_ms"] for layer in plan["layers"])
    assert told["predicted_ms"] == pytest.approx(told["base_ms"] + layers)
    measured = told["measured"]
    assert measured["float"]["median_ms"] > 0
    assert told["difference_ms"] == pytest.approx(measured["quantized"]["median_ms"] - told["predicted_ms"])
    assert (frontier["cost"], frontier["unit"]) == ("latency", "milliseconds")


def test_the_fastest_plan_within_the_budget_is_found(ask, machine):
    run = ask(objective="latency")
    plan, frontier = delivered(run)
    bits = {layer["name"]: layer["bits"] for layer in plan["layers"]}
    assert plan["outcome"] == "met"
    assert sum(bits.values()) < 24
    assert plan["latency"]["predicted_ms"] == pytest.approx(sum(bits.values()) / 10, abs=1e-5)
    assert plan["latency"]["difference_ms"] == pytest.approx(0, abs=1e-5)
    assert all(
        point["cost"] == pytest.approx(sum(point["bits"].values()) / 10, abs=1e-5) for point in frontier["points"]
    )
    assert "note" not in plan["latency"]


def test_every_distinct_file_is_timed_once_for_all_jobs(ask, machine):
    delivered(ask(objective="latency"))
    once = len(machine.timed)
    # the float network, that of the fastest formats, three layers in three widths and in float, both at the end
    assert once == len(set(machine.timed)) + 1 == 2 + 3 * 4 + 2
    again = ask(objective="latency", limits={"max_latency_ms": 2.0})
    delivered(again)
    assert again.ran == ["resolve", "latency", "plan", "certify"]
    assert len(machine.timed) == once + 2  # the networks, once more


def test_a_limit_on_latency_is_kept(ask, machine):
    plan, frontier = delivered(ask(limits={"max_latency_ms": 1.2}))
    assert plan["latency"]["predicted_ms"] <= 1.2
    assert all(sum(point["bits"].values()) <= 12 for point in frontier["points"])
    assert frontier["cost"] == "size"


def test_the_least_drop_within_a_latency(ask, machine):
    plan, frontier = delivered(ask(objective="accuracy", limits={"max_latency_ms": 1}))
    assert frontier["cost"] == "latency"
    assert plan["latency"]["predicted_ms"] <= 1


def test_a_limit_that_no_plan_keeps_is_refused_before_calibration(ask, machine):
    run = ask(limits={"max_latency_ms": 0.5})
    with pytest.raises(
        LimitUnreachable, match=r"max_latency_ms is 0.5, but the cheapest plan .* has 0.60000"
    ) as caught:
        run.run()
    assert run.ran == ["resolve"]
    nearest = float(str(caught.value).partition(" has ")[2].partition(";")[0])
    ask(limits={"max_latency_ms": nearest}).run()


def test_limits_that_cannot_be_kept_together_are_refused_before_calibration(ask, monkeypatch):
    """Where fewer bits are slower, a small file and a fast one exclude each other."""

    def measure(timed: Sequence[Timed], threads: int, **_) -> list[Latency]:
        layers = [[10 - weight.bits / 10 for weight in audit(one.model).weights] for one in timed]
        return [Latency(sum(own), 0.001, 7) for own in layers]

    monkeypatch.setattr(timing, "measure_alternatives", measure)
    run = ask(limits={"max_size_bytes": 4200, "max_latency_ms": 28.0})
    text = r"together: max_size_bytes 4,200 \(the least .* is 4,...\), max_latency_ms 28 \(the least that .* is 28\."
    with pytest.raises(LimitUnreachable, match=text):
        run.run()
    assert run.ran == ["resolve"]


def test_differences_within_the_noise_count_as_none(ask, monkeypatch):
    """Whatever luck says of each width, the plan is the one with the least damage, and says why."""
    generator = np.random.default_rng(0)

    def measure(timed, threads, **_):
        return [Latency(named(one) != "nothing" and 1.0 + 0.01 * generator.standard_normal(), 0.01, 7) for one in timed]

    monkeypatch.setattr(timing, "measure_alternatives", measure)
    plan, frontier = delivered(ask(objective="latency"))
    assert [layer["bits"] for layer in plan["layers"]] == [8, 8, 8]
    assert len(frontier["points"]) == 1
    assert plan["latency"]["note"] == "no format that the request allows is faster than another: latency does not " + (
        "tell plans apart"
    )


def test_nothing_is_timed_unless_latency_is_asked_for(ask, machine):
    plan, _ = delivered(ask())
    assert plan["latency"] is None
    assert {layer["latency_ms"] for layer in plan["layers"]} == {None}
    assert machine.timed == []


def test_the_user_gives_the_table_of_another_device(ask, machine):
    table = {**TABLE, "base_ms": 0.125}
    run = ask(objective="latency", latency_table=table)
    plan, _ = delivered(run)
    bits = {layer["name"]: layer["bits"] for layer in plan["layers"]}
    assert plan["latency"] == {
        "source": "given",
        "base_ms": 0.125,
        "predicted_ms": pytest.approx(0.125 + 0.1 * bits["conv1"] + 0.5 * bits["conv2"] + 0.25, abs=1e-5),
    }
    assert bits["fc"] > 2  # fewer bits win nothing there, so that the measured damage decides
    assert machine.timed == []
    assert delivered(ask(objective="latency", latency_table=table))[0] == plan


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"conv2": {"int4/channel": 1.0}}, "lacks 2 of the formats .*: conv2: int2/channel; conv2: int8/channel; add"),
        (
            {"conv9": {}},
            "latency_table names 'conv9', which is no layer; the layers that can be planned are conv1, conv2, fc",
        ),
        ({"fc": TABLE["fc.weight"]}, "latency_table names 'fc' twice"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(ask, change, text):
    run = ask(latency_table={**TABLE, **change})
    with pytest.raises(LatencyTableInvalid, match=text):
        run.run()
    assert run.ran == ["resolve"]


def test_a_kept_layer_needs_its_float_latency(ask):
    with pytest.raises(LatencyTableInvalid, match="lacks 1 of the formats that may be planned: conv1: float32"):
        ask(layers={"conv1": {"keep": True}}, latency_table=TABLE).run()


def test_a_table_depends_on_the_width_of_what_a_layer_reads(ask, machine):
    """What an integer kernel reads is in the table beside float, for every width of the weight."""
    run = ask(objective="latency", activations={"bits": [8]})
    plan, _ = delivered(run)
    document, _ = unpack(run.results[run.keys["latency"]])
    widths = ["float32", *(f"int{bits}/channel" for bits in BITS)]
    for name in ("conv1", "conv2", "fc"):
        assert set(document["sites"][name]) == {*widths, *(f"{width}+uint8/tensor" for width in widths)}
    assert plan["outcome"] == "met"
    assert plan["latency"]["predicted_ms"] == pytest.approx(
        plan["latency"]["base_ms"] + sum(layer["latency_ms"] for layer in plan["layers"])
    )


def test_a_table_for_quantized_activations_names_what_a_layer_reads(ask):
    given = {"latency_table": TABLE, "activations": {"bits": [8]}}
    with pytest.raises(LatencyTableInvalid, match=r"lacks 9 of .*: conv1: int2/channel\+uint8/tensor; conv1: int4"):
        ask(**given).run()

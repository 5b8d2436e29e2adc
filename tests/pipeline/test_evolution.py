"""A job whose plan is polished: layers of one size, of which some matter more than others."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from evaluation.splits import split
from pipeline.events import PlanEvaluated
from pipeline.polishing import MOST_SAMPLES
from pipeline.workspace import Inputs

WIDTH, LAYERS = 16, 8
FORMATS = {"weights": {"bits": [2, 4, 6, 8], "refinement": "none"}, "sensitivity": {"method": "quantization_error"}}
BUDGET = {"metric": "kl", "max_drop": 0.01}
POLISHED = {**FORMATS, "budget": BUDGET, "search": {"method": "evolution", "deadline_seconds": 3600.0}}


@pytest.fixture(scope="module")
def residual() -> bytes:
    """Blocks `h + relu(h w)` whose weights have one size and different scales."""
    generator = np.random.default_rng(1)
    nodes, weights, value = [], {}, "x"
    for index in range(LAYERS):
        name = f"w{index}"
        weights[name] = generator.normal(0, 0.06 * (1 + index % 4), (WIDTH, WIDTH))
        nodes += [
            helper.make_node("MatMul", [value, name], [f"a{index}"], name=f"block{index}"),
            helper.make_node("Relu", [f"a{index}"], [f"r{index}"]),
            helper.make_node("Add", [value, f"r{index}"], [f"h{index}"]),
        ]
        value = f"h{index}"
    weights["head"] = generator.normal(0, 0.5, (WIDTH, 5))
    nodes.append(helper.make_node("MatMul", [value, "head"], ["y"], name="head_layer"))
    graph = helper.make_graph(
        nodes,
        "residual",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", WIDTH])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 5])],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.checker.check_model(model)
    return model.SerializeToString()


@pytest.fixture(scope="module")
def rows() -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(2).normal(size=(600, WIDTH)).astype(np.float32)}


@pytest.fixture(scope="module")
def analysis() -> dict[str, bytes]:
    """Results that the jobs of this file share: none repeats the analysis."""
    return {}


@pytest.fixture
def planned(job, residual, rows, analysis):
    def run(request, results=None, **arguments):
        one = job(residual, rows, request, analysis if results is None else results, **arguments)
        delivery = one.run()
        return json.loads(delivery.artifacts["plan"]), one

    return run


def searched(plan) -> dict[tuple[int, ...], dict]:
    """Every evaluated plan by its widths."""
    return {tuple(one["bits"].values()): one for one in plan["search"]["evaluated"]}


def least_cost(plan) -> float:
    return min(one["cost"] for one in plan["search"]["evaluated"] if one["meets_budget"])


def test_what_evolution_gains_is_spent_on_a_cheaper_plan(planned):
    """Squared errors of weights know nothing of what a layer does to the output, so there is something to gain."""
    before, _ = planned({**FORMATS, "budget": BUDGET})
    after, job = planned(POLISHED)
    assert before["search"]["polish"] is None
    assert all(searched(after)[bits]["drop"] == one["drop"] for bits, one in searched(before).items())
    assert least_cost(after) < least_cost(before)
    done = after["search"]["polish"]
    assert done["samples"] == after["search"]["samples"]
    assert done["offered"] > 0
    assert len(searched(after)) > len(searched(before))
    events = job.of_kind(PlanEvaluated)
    assert len(events) == len(after["search"]["evaluated"])


def test_a_killed_worker_goes_on_where_it_stopped(planned, analysis, stopped):
    """The same result as without a kill, and no loss is measured twice."""
    whole, _ = planned(POLISHED)
    request = {**POLISHED, "search": {**POLISHED["search"], "deadline_seconds": 3601.0}}
    results = dict(analysis)
    kept = [len(results)]
    for checks in (300, 600):
        with pytest.raises(stopped):
            planned(request, results, stop_after=checks)
        kept.append(len(results))
    assert kept == sorted(set(kept))
    resumed, _ = planned(request, results)
    assert resumed["search"] == whole["search"]
    assert resumed["layers"] == whole["layers"]


@pytest.mark.parametrize("looks", [25, 120])
def test_the_deadline_ends_it_with_the_best_so_far(planned, looks):
    """Whether it passes during the search or during the polish, no dearer plan than the search's is the answer."""
    before, _ = planned({**FORMATS, "budget": BUDGET})
    request = {**POLISHED, "search": {**POLISHED["search"], "deadline_seconds": float(looks)}}
    cut, _ = planned(request, late_after=looks)
    assert cut["search"]["status"] == "met"
    assert least_cost(cut) <= least_cost(before)
    whole, _ = planned(POLISHED)
    assert cut["search"]["polish"]["evaluations"] < whole["search"]["polish"]["evaluations"]


def test_the_least_drop_within_a_limit_is_polished_too(planned):
    request = {**FORMATS, "objective": "accuracy", "limits": {"max_size_bytes": 3700}, "budget": {"metric": "kl"}}
    before, _ = planned(request)
    after, _ = planned({**request, "search": POLISHED["search"]}, late_after=100)
    assert after["search"]["least_drop"] <= before["search"]["least_drop"]
    assert after["size_bytes"] <= 3700
    assert all(one["fraction"] == 1 for one in after["search"]["evaluated"][:1])


def test_no_held_out_sample_is_looked_at():
    splits = split(600, 0, None)
    inputs = SimpleNamespace(splits=splits, static_batch=None, group=1024)
    samples = Inputs.last_of_search(inputs, MOST_SAMPLES)
    assert set(samples) <= set(splits.search)
    assert not set(samples) & {*splits.held_out, *splits.calibration}

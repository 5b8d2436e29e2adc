"""The search of a real job: stopped evaluations, search methods, objectives, confidence, a deadline in the middle."""

from __future__ import annotations

import json

import pytest

from pipeline.events import PlanEvaluated
from pipeline.search_space import SearchSpace
from quantization.formats import parse_format

FORMATS = {"weights": {"bits": [2, 3, 4, 6, 8]}}
SEARCH_SAMPLES = 539


@pytest.fixture(scope="module")
def analysis() -> dict[str, bytes]:
    """Results that the jobs of this file share: none repeats the analysis."""
    return {}


@pytest.fixture
def planned(job, model, samples, analysis):
    """`planned(request)`: the plan of a job, its frontier, and the job."""

    def run(request, **arguments):
        one = job(model, samples, {**FORMATS, **request}, analysis, **arguments)
        delivery = one.run()
        return json.loads(delivery.artifacts["plan"]), json.loads(delivery.artifacts["frontier"]), one

    return run


def test_evaluations_say_which_share_of_the_samples_they_read(planned):
    plan, _, job = planned({"budget": {"metric": "top1", "max_drop": 0.02}})
    evaluated = plan["search"]["evaluated"]
    assert plan["search"]["samples"] == SEARCH_SAMPLES
    for one in evaluated:
        assert one["fraction"] == one["samples"] / SEARCH_SAMPLES
    assert any(one["fraction"] < 1 for one in evaluated)
    assert plan["search"]["full_evaluations"] == pytest.approx(sum(one["fraction"] for one in evaluated))
    assert plan["search"]["full_evaluations"] <= 12
    assert {event.measured["fraction"] for event in job.of_kind(PlanEvaluated)} == {
        one["fraction"] for one in evaluated
    }


def test_a_stopped_evaluation_answers_as_all_samples_do(planned):
    """Every plan of one search, once stopped and once read to the end, as the objective accuracy does."""
    plan, _, _ = planned({"budget": {"metric": "top1", "max_drop": 0.05}})
    stopped = {tuple(one["bits"].values()): one for one in plan["search"]["evaluated"] if one["fraction"] < 1}
    assert stopped
    for bits, one in stopped.items():
        layers = {name: {"bits": [width]} for name, width in zip(one["bits"], bits, strict=True)}
        request = {"objective": "accuracy", "limits": {"max_size_bytes": 10**6}, "layers": layers}
        (whole,) = planned(request)[0]["search"]["evaluated"]
        assert whole["fraction"] == 1
        assert (whole["drop"] <= 0.05) == one["meets_budget"]
        assert abs(whole["drop"] - one["drop"]) < 4 * max(one["stderr"], 3 / one["samples"])


@pytest.mark.parametrize("confidence", [None, 0.9])
def test_with_a_confidence_no_plan_is_called_good_early(planned, confidence):
    plan, _, _ = planned({"budget": {"metric": "top1", "max_drop": 0.05, "confidence": confidence}})
    early = [one["meets_budget"] for one in plan["search"]["evaluated"] if one["fraction"] < 1]
    assert any(early) == (confidence is None)
    assert plan["outcome"] == "met"


def test_bisection_goes_level_by_level(planned):
    plan, frontier, _ = planned({"budget": {"metric": "top1", "max_drop": 0.02}, "search": {"method": "bisection"}})
    evaluated = [tuple(one["bits"].values()) for one in plan["search"]["evaluated"]]
    assert (8, 8, 8) in evaluated
    assert (6, 6, 6) in evaluated
    assert plan["outcome"] == "met"
    assert sum(point["chosen"] for point in frontier["points"]) <= 1
    along_frontier, _, _ = planned({"budget": {"metric": "top1", "max_drop": 0.02}})
    assert plan["size_bytes"] >= along_frontier["size_bytes"]


def test_bisection_within_limits_that_wide_plans_break(planned):
    request = {"budget": {"metric": "top1", "max_drop": 0.05}, "limits": {"max_size_bytes": 3800}}
    plan, _, _ = planned({**request, "search": {"method": "bisection"}})
    assert plan["size_bytes"] <= 3800
    assert all(one["size_bytes"] <= 3800 for one in plan["search"]["evaluated"])


@pytest.mark.parametrize("limits", [{"max_size_bytes": 3800}, {"max_bit_operations": 20_000_000}])
def test_the_least_drop_within_a_limit(planned, limits):
    plan, frontier, _ = planned({"objective": "accuracy", "limits": limits, "budget": {"metric": "kl"}})
    assert plan["size_bytes"] <= limits.get("max_size_bytes", 10**9)
    assert plan["bit_operations"] <= limits.get("max_bit_operations", 10**12)
    assert frontier["cost"] == ("size" if "max_size_bytes" in limits else "bit_operations")
    evaluated = plan["search"]["evaluated"]
    assert all(one["fraction"] == 1 for one in evaluated)
    chosen = [one for one in evaluated if one["size_bytes"] == plan["size_bytes"]]
    assert chosen[0]["drop"] == plan["search"]["least_drop"]
    assert plan["certificate"]["looks"] == 1


def test_a_deadline_ends_an_evaluation_in_the_middle(planned):
    plan, _, _ = planned({"budget": {"metric": "kl", "max_drop": 0.01}, "search": {"deadline_seconds": 5.0}}, late=True)
    (only,) = plan["search"]["evaluated"]
    assert only["fraction"] < 1
    assert not only["meets_budget"]
    assert plan["search"]["status"] == "deadline"


def test_plans_of_several_formats_of_one_width_are_told_apart(planned):
    """By bits alone nobody could apply a plan of the frontier."""
    formats = ["int4/channel", "int4/tensor", "int8/channel"]
    plan, frontier, _ = planned({"weights": {"formats": formats}, "budget": {"metric": "top1", "max_drop": 0.02}})
    told = [*plan["search"]["evaluated"], *frontier["points"]]
    for one in told:
        assert {name: parse_format(chosen).bits for name, chosen in one["formats"].items()} == one["bits"]
        assert set(one["formats"].values()) <= set(formats)
    assert len({tuple(one["formats"].values()) for one in told}) > len({tuple(one["bits"].values()) for one in told})
    delivered = {layer["name"]: layer["format"] for layer in plan["layers"]}
    assert delivered in [point["formats"] for point in frontier["points"]]


def test_a_second_budget_finds_the_frontier_and_needs_fewer_evaluations(planned, monkeypatch):
    first, frontier, _ = planned({"budget": {"metric": "kl", "max_drop": 0.004}})
    loses = [plan["drop"] / plan["predicted_damage"] for plan in first["search"]["evaluated"]]

    def never(_):  # only a frontier that is not computed shows that the stored one was taken: both are equal
        raise AssertionError("the frontier depends on no budget")

    budget = {"budget": {"metric": "kl", "max_drop": 0.009}}
    anew, _, _ = planned(budget)
    monkeypatch.setattr(SearchSpace, "frontier", never)
    second, same, _ = planned({**budget, "search": {"drop_per_damage": sorted(loses)[len(loses) // 2]}})
    assert second["outcome"] == "met"
    assert second["search"]["full_evaluations"] < anew["search"]["full_evaluations"]
    assert second["size_bytes"] <= 1.03 * anew["size_bytes"]
    costs = [{point["cost"] for point in one["points"] if point["measured"] is None} for one in (frontier, same)]
    assert len(costs[0] ^ costs[1]) <= len(first["search"]["evaluated"]) + len(second["search"]["evaluated"])

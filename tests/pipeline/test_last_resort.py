"""Uniform plans as a last resort: whatever the predictions say, no search does worse than plans made by hand."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from pipeline.search_space import SearchSpace
from pipeline.stages import plan as plan_stage

WIDTHS = [2, 3, 4, 8]
FORMATS = {"weights": {"bits": WIDTHS, "refinement": "none"}}


@pytest.fixture(scope="module")
def analysis() -> dict[str, bytes]:
    """Results that the jobs of this file share: none repeats the analysis."""
    return {}


@pytest.fixture
def wrong_on_purpose(monkeypatch) -> None:
    """Predictions that call the widest format the most damaging one, and see no interactions."""
    predicted = SearchSpace.predicted

    def upside_down(space: SearchSpace, *arguments) -> SearchSpace:
        right = predicted(space, *arguments)
        most = max(candidate.damage for site in right.problem.sites for candidate in site.candidates)
        sites = tuple(
            replace(site, candidates=tuple(replace(one, damage=1.01 * most - one.damage) for one in site.candidates))
            for site in right.problem.sites
        )
        return replace(right, problem=replace(right.problem, sites=sites, interactions=None))

    monkeypatch.setattr(SearchSpace, "predicted", upside_down)


def uniform(job, model, samples, analysis, bits: int, budget: dict) -> dict:
    """The plan of a job that had no choice."""
    request = {**FORMATS, "budget": budget, "layers": {name: {"bits": [bits]} for name in ("conv1", "conv2", "fc")}}
    return json.loads(job(model, samples, request, analysis).run().artifacts["plan"])


@pytest.mark.usefixtures("wrong_on_purpose")
@pytest.mark.parametrize("method", ["frontier", "bisection"])
def test_predictions_that_are_wrong_end_with_the_widest_plan(job, model, samples, analysis, method):
    budget = {"metric": "kl", "max_drop": 1e-5}  # 4 bits lose ten times that
    request = {**FORMATS, "budget": budget, "search": {"method": method}}
    delivery = job(model, samples, request, {}).run()
    plan = json.loads(delivery.artifacts["plan"])
    assert [layer["bits"] for layer in plan["layers"]] == [8, 8, 8]
    assert delivery.outcome == "met"
    assert plan["certificate"]["drop"] <= 1e-5
    cheapest = min(json.loads(delivery.artifacts["frontier"])["points"], key=lambda point: point["cost"])
    assert set(cheapest["bits"].values()) == {2}, "the frontier itself led to nothing wider"


@pytest.mark.usefixtures("wrong_on_purpose")
def test_not_met_is_only_said_after_the_widest_plan_was_tried(job, model, samples):
    delivery = job(model, samples, {**FORMATS, "budget": {"metric": "kl", "max_drop": 1e-9}}, {}).run()
    plan = json.loads(delivery.artifacts["plan"])
    assert delivery.outcome == "not_met"
    tried = [set(one["bits"].values()) for one in plan["search"]["evaluated"]]
    assert all({bits} in tried for bits in WIDTHS)
    # the best effort is the least drop that was seen
    assert [layer["bits"] for layer in plan["layers"]] == [8, 8, 8]


@pytest.mark.parametrize("max_drop", [0.002, 0.02, 0.2])
def test_the_file_is_not_larger_than_a_uniform_one_that_keeps_the_budget(job, model, samples, analysis, max_drop):
    budget = {"metric": "kl", "max_drop": max_drop}
    plan = json.loads(job(model, samples, {**FORMATS, "budget": budget}, analysis).run().artifacts["plan"])
    assert plan["outcome"] == "met"
    by_hand = {bits: uniform(job, model, samples, analysis, bits, budget) for bits in WIDTHS}
    keeping = [one["size_bytes"] for one in by_hand.values() if one["outcome"] == "met"]
    assert keeping
    assert plan["size_bytes"] <= min(keeping)


def test_the_certificate_ends_at_the_smallest_uniform_plan_that_keeps_the_budget(job, model, samples, monkeypatch):
    """Of a search that measures all of them and answers with the widest."""

    def widest(*arguments):
        uniform, evidence = arguments[3], arguments[-1]
        for point in uniform:
            evidence.evaluate(point, to_the_end=True)
        return evidence.result(uniform[0])

    monkeypatch.setattr(plan_stage, "_searched", widest)
    delivery = job(model, samples, {**FORMATS, "budget": {"metric": "kl", "max_drop": 0.01}}, {}).run()
    plan = json.loads(delivery.artifacts["plan"])
    kept = [one for one in plan["search"]["evaluated"] if one["drop"] <= 0.01]
    smallest = min(kept, key=lambda one: one["cost"])
    assert {layer["bits"] for layer in plan["layers"]} == set(smallest["bits"].values())
    assert plan["certificate"]["looks"] == len(kept) > 1
    assert delivery.outcome == "met"

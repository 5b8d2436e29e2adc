"""Which of two results of a search is kept: polish never makes a plan dearer."""

from __future__ import annotations

from pipeline.polishing import better
from planner.evidence import EvaluatedPlan, Evaluation, PlanPoint, SearchResult, SearchStatus
from planner.problem import Plan

MET, NOT_MET, DEADLINE = SearchStatus.MET, SearchStatus.NOT_MET, SearchStatus.DEADLINE


def result(status: SearchStatus, cost: float, count: int) -> SearchResult:
    point = PlanPoint(Plan((int(cost),)), cost, 0.1)
    one = EvaluatedPlan(point, Evaluation(0.01, 0.001, 100, int(cost)), 0.01, status is MET)
    return SearchResult(status, one, (one,) * count)


def test_a_cheaper_plan_or_one_of_the_same_cost_replaces_the_result():
    before = result(MET, 100, 1)
    for cost in (90, 100):
        after = result(MET, cost, 2)
        assert better(before, after) is after


def test_a_dearer_plan_does_not_but_all_that_was_evaluated_is_reported():
    before = result(MET, 100, 1)
    for after in (result(MET, 110, 2), result(NOT_MET, 90, 2), result(DEADLINE, 90, 2)):
        kept = better(before, after)
        assert (kept.status, kept.chosen, kept.evaluated) == (MET, before.chosen, after.evaluated)


def test_a_budget_that_is_met_only_after_polish_is_met():
    after = result(MET, 120, 2)
    assert better(result(NOT_MET, 100, 1), after) is after


def test_the_end_of_the_polish_is_not_the_end_of_the_search():
    """That no plan meets the budget was found out in time; that the time was up after it is no other news."""
    kept = better(result(NOT_MET, 100, 1), result(DEADLINE, 100, 2))
    assert kept.status is NOT_MET
    assert better(result(DEADLINE, 100, 1), result(DEADLINE, 100, 2)).status is DEADLINE

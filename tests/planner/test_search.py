"""The search on frontiers whose truth is known, with noise like that of a thousand samples."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.errors import ProblemInvalid
from planner.evidence import Evaluate, Evaluation, Evidence, PlanPoint, SearchResult, SearchStatus
from planner.problem import Plan
from planner.search import NEIGHBOURS, SAFEST, least_drop, search_frontier


def frontier(count: int, decay: float = 0.07) -> list[PlanPoint]:
    return [PlanPoint(Plan((index,)), 1000.0 + 10 * index, float(np.exp(-decay * index))) for index in range(count)]


def index_of(result: SearchResult) -> int:
    return result.chosen.point.plan.choices[0]


def exact(point: PlanPoint, to_the_end: bool = False) -> Evaluation:
    return Evaluation(drop=0.3 * point.damage, stderr=0.004, samples=1000, size_bytes=int(point.cost))


def searched(points: list[PlanPoint], evaluate: Evaluate, max_drop: float, **arguments) -> SearchResult:
    evidence = Evidence(evaluate, max_drop, **arguments)
    search_frontier(points, evidence)
    return evidence.result()


def test_finds_the_cheapest_plan_when_nothing_is_noisy():
    points = frontier(100)
    result = searched(points, exact, 0.01)
    expected = next(index for index, point in enumerate(points) if exact(point).drop <= 0.01)
    assert result.status is SearchStatus.MET
    assert index_of(result) == expected
    assert len(result.evaluated) <= 12


@settings(deadline=None)
@given(st.integers(1, 300), st.floats(0.0, 0.4), st.floats(0.005, 0.2))
def test_with_enough_evaluations_it_is_always_the_cheapest(count, max_drop, decay):
    points = frontier(count, decay)
    result = searched(points, exact, max_drop, max_evaluations=count + 1)
    meeting = [index for index, point in enumerate(points) if exact(point).drop <= max_drop]
    if meeting:
        assert index_of(result) == meeting[0]
    else:
        assert result.status is SearchStatus.NOT_MET
        assert index_of(result) == count - 1
        assert result.least_drop == pytest.approx(exact(points[-1]).drop)
    assert all(a.point.cost < b.point.cost for a, b in zip(result.evaluated, result.evaluated[1:], strict=False))


def test_each_plan_is_evaluated_once_and_all_are_kept():
    seen = []

    def evaluate(point, to_the_end):
        seen.append(point.plan)
        return exact(point)

    result = searched(frontier(200), evaluate, 0.02)
    assert len(seen) == len(set(seen)) == len(result.evaluated)


def test_the_lucky_one_is_not_taken():
    """One cheap plan measures far better than all around it; its neighbours do not vouch for it."""
    points = frontier(40)

    def evaluate(point, to_the_end):
        lucky = point.plan.choices[0] == 19  # the first probe
        return Evaluation(-0.01 if lucky else 0.3 * point.damage, 0.004, 1000, int(point.cost))

    result = searched(points, evaluate, 0.03)
    assert exact(result.chosen.point).drop <= 0.03 * 1.3


def test_the_promise_is_kept_more_often_than_by_taking_measurements_at_their_word():
    """300 searches with noise of 0.5 points on a budget of 1 point: the true drop of the chosen plan.

    Measured here: a mean of 0.97 points and none above 1.5. Without the neighbours' word it is 1.05 points, and 3 % of
    the searches end above 1.5.
    """
    points = frontier(128, 0.03)
    drops = []
    for seed in range(300):
        generator = np.random.default_rng(seed)

        def evaluate(point, to_the_end, generator=generator):
            return Evaluation(0.08 * point.damage + generator.normal(0, 0.005), 0.005, 1000, int(point.cost))

        drops.append(0.08 * searched(points, evaluate, 0.01).chosen.point.damage)
    assert np.mean(drops) < 0.0101
    assert np.mean(np.array(drops) > 0.015) < 0.01


def test_safety_adds_standard_errors():
    points = frontier(100)
    plain = searched(points, exact, 0.01)
    safe = searched(points, exact, 0.01, safety=1.645)
    assert safe.chosen.evaluation.drop + 1.645 * 0.004 <= 0.01
    assert safe.chosen.point.cost > plain.chosen.point.cost


def test_a_deadline_ends_it_with_the_best_so_far():
    result = searched(frontier(100), exact, 1e-9, expired=lambda: True)
    assert result.status is SearchStatus.DEADLINE
    assert len(result.evaluated) == 1


def test_only_the_safest_plan_is_read_to_the_end():
    read_whole = {}

    def evaluate(point, to_the_end):
        read_whole[point.plan.choices[0]] = to_the_end
        return exact(point)

    result = searched(frontier(50), evaluate, 1e-9)
    assert result.status is SearchStatus.NOT_MET
    assert {index for index, to_the_end in read_whole.items() if to_the_end} == {49}


def test_the_least_drop_is_looked_for_at_the_safe_end():
    points = frontier(50)
    drops = {49: 0.002, 48: -0.001, 47: 0.001, 46: 0.003}

    def evaluate(point, to_the_end):
        assert to_the_end
        return Evaluation(drops[point.plan.choices[0]], 0.004, 1000, int(point.cost))

    evidence = Evidence(evaluate, 0.0)
    assert least_drop(points, evidence) == points[48]
    assert len(evidence.result().evaluated) == SAFEST


@pytest.mark.parametrize(
    ("points", "text"),
    [([], "needs points"), (list(reversed(frontier(3))), "ascending costs"), ([frontier(1)[0]] * 2, "ascending costs")],
)
def test_what_is_no_frontier_is_refused(points, text):
    for search in (search_frontier, least_drop):
        with pytest.raises(ProblemInvalid, match=text):
            search(points, Evidence(exact, 0.01))


@settings(deadline=None)
@given(st.integers(20, 300), st.floats(0.001, 0.3), st.floats(0.005, 0.2), st.floats(0.03, 3.0))
def test_with_a_slope_and_a_close_bracket_the_answer_is_as_close(count, max_drop, decay, slope):
    points = frontier(count, decay)
    evidence = Evidence(exact, max_drop, max_evaluations=count + 1)
    search_frontier(points, evidence, slope=slope, close=1.02, neighbours=NEIGHBOURS[:1])
    result = evidence.result()
    meeting = [point for point in points if exact(point).drop <= max_drop]
    if meeting:
        assert result.chosen.evaluation.drop <= max_drop
        assert result.chosen.point.cost <= 1.02 * meeting[0].cost
    else:
        assert result.status is SearchStatus.NOT_MET
        assert index_of(result) == count - 1


def test_the_first_probe_lies_where_the_slope_expects_the_budget_and_fewer_follow():
    points, seen = frontier(128, 0.03), []

    def evaluate(point, to_the_end):
        seen.append(point)
        return exact(point)

    taken = {}
    for slope in (None, 0.3, 0.15):
        seen.clear()
        evidence = Evidence(evaluate, 0.1)
        if slope is None:
            search_frontier(points, evidence)
        else:
            search_frontier(points, evidence, slope=slope, close=1.01, neighbours=NEIGHBOURS[:1])
            assert slope * seen[0].damage <= 0.1 < slope * points[seen[0].plan.choices[0] - 1].damage
        taken[slope] = len(seen)
    assert taken[0.3] <= taken[0.15] < taken[None]


@settings(deadline=None)
@given(st.integers(20, 300), st.floats(0.001, 0.3), st.floats(0.005, 0.2), st.floats(0.5, 2.0))
def test_a_search_that_knows_about_the_slope_ends_with_the_first_plan_that_is_small_enough(count, budget, decay, off):
    """`exact` is a line, so that the map foresees right; off by half or twice the slope, the answer is as small."""
    points, seen = frontier(count, decay), []

    def evaluate(point, to_the_end):
        seen.append(point)
        return exact(point)

    evidence = Evidence(evaluate, budget, max_evaluations=count + 1)
    slope = exact(points[0]).drop / points[0].damage
    search_frontier(points, evidence, slope=slope * off, close=1.01, enough=1.03, neighbours=NEIGHBOURS[:1])
    meeting = [point for point in points if exact(point).drop <= budget]
    if meeting:
        chosen = evidence.result().chosen
        assert chosen.evaluation.drop <= budget
        assert chosen.point.cost <= 1.03 * meeting[0].cost
        assert off != 1 or len(seen) == 1

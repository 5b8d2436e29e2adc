"""What a search will want, foreseen by playing it through."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import pytest

from pipeline.foresight import MOST, Foresight
from planner.evidence import Evaluation, Evidence, PlanPoint
from planner.problem import Plan
from planner.search import search_frontier

POINTS = [PlanPoint(Plan((number,)), 10.0 + number, 0.4 * 0.8**number) for number in range(20)]
GATHER = partial(Evidence, max_drop=0.01)


def measured(point: PlanPoint, factor: float) -> Evaluation:
    return Evaluation(drop=factor * point.damage, stderr=0.001, samples=100, size_bytes=1)


def asked_for(factor: float) -> list[PlanPoint]:
    """The plans that the search measures, in order, where the drop is so many times the damage."""
    order: list[PlanPoint] = []

    def measure(point: PlanPoint, _to_the_end: bool) -> Evaluation:
        order.append(point)
        return measured(point, factor)

    search_frontier(POINTS, GATHER(measure))
    return order


def foresight() -> Foresight:
    return Foresight(partial(search_frontier, POINTS), GATHER, lambda point: point)


@pytest.mark.parametrize("factor", [0.02, 0.1, 0.5])
def test_the_first_plan_is_the_one_that_the_search_asks_for(factor):
    known: dict[Plan, Evaluation] = {}
    for point in asked_for(factor):
        wanted = [own for own, _ in foresight().wanted(known)]
        assert wanted[0] == point
        assert len({own.plan for own in wanted}) == len(wanted) <= MOST + 1
        assert not {own.plan for own in wanted} & set(known)
        known[point.plan] = measured(point, factor)
    assert foresight().wanted(known) == []


@pytest.mark.parametrize("factor", [0.02, 0.1, 0.5])
def test_whatever_the_answer_what_comes_next_is_among_the_foreseen(factor):
    order = asked_for(factor)
    known: dict[Plan, Evaluation] = {}
    hits = 0
    for point, after in pairwise(order):
        hits += after in [own for own, _ in foresight().wanted(known)]
        known[point.plan] = measured(point, factor)
    assert hits >= 0.6 * (len(order) - 1)


def test_a_search_that_wants_a_plan_to_the_end_says_so():
    known = {point.plan: measured(point, 10.0) for point in POINTS[:-1]}
    assert foresight().wanted(known) == [(POINTS[-1], True)]

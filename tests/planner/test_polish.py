"""Polish on a fake whose measured losses are known: what is offered, what it costs, and what ends it."""

from __future__ import annotations

import numpy as np
import pytest

from planner.evidence import PlanPoint
from planner.polish import MOST_IDLE_TURNS, polish
from planner.problem import Plan, Problem, Quantity

TARGET = (0, 3, 1, 2, 0, 3)


@pytest.fixture
def problem(make_problem) -> Problem:
    """Six layers of one size and four formats, of which the prediction says the same for every layer."""
    return make_problem([[100, 200, 300, 400]] * 6, [[0.8, 0.4, 0.2, 0.1]] * 6)


def loss(plan: Plan, samples: int) -> float:
    """Least at the target, and never 0."""
    return 0.01 + float(sum((a - b) ** 2 for a, b in zip(plan.choices, TARGET, strict=False)))


def at(problem: Problem, plan: Plan) -> PlanPoint:
    return PlanPoint(plan, problem.total(Quantity.SIZE, plan), problem.total(Quantity.DAMAGE, plan))


def polished(problem, start, offer, **arguments):
    given = {
        "samples": 64,
        "cost": Quantity.SIZE,
        "generator": np.random.default_rng(0),
        "expired": lambda: False,
        **arguments,
    }
    priced = given.pop("priced", lambda plan: at(problem, plan))
    return polish(at(problem, start), problem, priced, loss, offer, **given)


def test_it_offers_plans_that_lose_less_at_the_same_cost(problem):
    start, offers = Plan((1, 1, 1, 2, 2, 2)), []

    def offer(point: PlanPoint) -> PlanPoint:
        offers.append(point)
        return point

    done = polished(problem, start, offer)
    assert done.offered == len(offers) > 0
    assert offers[-1].plan.choices == TARGET
    losses = [loss(start, 64), *(loss(point.plan, 64) for point in offers)]
    assert losses == sorted(losses, reverse=True)
    assert {point.cost for point in offers} == {problem.total(Quantity.SIZE, start)}
    for point, measured in zip(offers, losses[1:], strict=True):
        predicted = problem.total(Quantity.DAMAGE, start) * measured / losses[0]
        assert point.damage == pytest.approx(predicted)


def test_it_goes_on_from_what_the_offer_made_of_a_plan(problem):
    """The search spends what was gained: from there on every plan costs what the cheaper one costs."""
    cheaper = at(problem, Plan((0, 3, 1, 1, 0, 3)))
    offers = []

    def offer(point: PlanPoint) -> PlanPoint:
        offers.append(point)
        return cheaper if len(offers) == 1 else point

    polished(problem, Plan((3, 3, 2, 0, 0, 1)), offer)
    assert {point.cost for point in offers[1:]} <= {cheaper.cost}


def test_what_breaks_a_limit_or_costs_more_is_not_measured(problem):
    """Its exact costs differ from the sums by what formats in use share, here 7 bytes for the widest."""
    start = Plan((1, 1, 1, 2, 2, 2))

    def priced(plan: Plan) -> PlanPoint | None:
        point = at(problem, plan)
        if plan.choices[0] == 0:
            return None
        return PlanPoint(plan, point.cost + 7 * (3 in plan.choices), point.damage)

    offers = []

    def offer(point: PlanPoint) -> PlanPoint:
        offers.append(point.plan.choices)
        return point

    polished(problem, start, offer, priced=priced)
    assert offers
    assert all(3 not in choices and choices[0] > 0 for choices in offers)


def test_it_ends_with_the_time_or_when_nothing_is_fitter(problem, make_problem):
    def none_expected(point: PlanPoint) -> PlanPoint:
        raise AssertionError(point)

    assert polished(problem, Plan((1, 1, 1, 2, 2, 2)), none_expected, expired=lambda: True).evaluations == 0
    best = polished(problem, Plan(TARGET), none_expected)
    assert best.generations == 8 * MOST_IDLE_TURNS
    different = make_problem([[10, 20], [30, 60]], [[0.1, 0.0]] * 2)
    assert polished(different, Plan((0, 1)), none_expected).generations == 0


def test_the_same_seed_offers_the_same_plans(problem):
    runs = []
    for _ in range(2):
        offers: list[PlanPoint] = []
        polished(problem, Plan((1, 1, 1, 2, 2, 2)), lambda point, seen=offers: seen.append(point) or point)
        runs.append(offers)
    assert runs[0] == runs[1]

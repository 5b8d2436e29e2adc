"""Bisection level by level, on problems whose every plan can be tried."""

from __future__ import annotations

import numpy as np
import pytest

from planner.evidence import Evaluation, Evidence, PlanPoint
from planner.level_bisection import bisect_levels
from planner.problem import Plan, Problem, Quantity


def priced_without_limit(problem: Problem):
    return lambda plan: PlanPoint(plan, problem.total(Quantity.SIZE, plan), problem.total(Quantity.DAMAGE, plan))


def searched(problem: Problem, max_drop: float, priced=None, **arguments) -> tuple[Evidence, list[Plan]]:
    """The evidence when the drop is the damage itself, and the plans in the order of their evaluation."""
    seen: list[Plan] = []

    def evaluate(point: PlanPoint, to_the_end: bool) -> Evaluation:
        seen.append(point.plan)
        return Evaluation(point.damage, 0.001, 100, int(point.cost))

    evidence = Evidence(evaluate, max_drop, **arguments)
    bisect_levels(problem, priced or priced_without_limit(problem), evidence)
    return evidence, seen


def one_by_one(problem: Problem, max_drop: float) -> Plan:
    """The same answer by trying every count: the papers' definition without bisection."""
    plan = [len(site.candidates) - 1 for site in problem.sites]
    narrowing = set(range(len(plan)))
    values = problem.values(Quantity.DAMAGE)
    for level in reversed(range(max(plan))):
        order = sorted(narrowing, key=lambda site: values[problem.offsets[site] + level])
        for count in range(len(order), -1, -1):
            tried = [level if site in order[:count] else choice for site, choice in enumerate(plan)]
            if problem.total(Quantity.DAMAGE, Plan(tuple(tried))) <= max_drop:
                break
        plan, narrowing = tried, set(order[:count])
    return Plan(tuple(plan))


@pytest.mark.parametrize("seed", range(20))
def test_it_finds_the_largest_count_of_every_level(random_problem, seed):
    problem = random_problem(seed, 9, 4)
    widest, narrowest = (problem.total(Quantity.DAMAGE, Plan((choice,) * 9)) for choice in (3, 0))
    max_drop = float(np.sqrt(widest * narrowest))
    evidence, seen = searched(problem, max_drop, max_evaluations=100)
    assert evidence.cheapest().plan == one_by_one(problem, max_drop)
    assert len(seen) == len(set(seen)) <= 1 + 3 * 5


def test_what_can_all_be_narrowed_takes_one_evaluation_a_level(random_problem):
    problem = random_problem(0, 12, 5)
    evidence, seen = searched(problem, 1e9)
    assert [set(plan.choices) for plan in seen] == [{4}, {3}, {2}, {1}, {0}]
    assert evidence.cheapest().plan.choices == (0,) * 12


def test_when_the_widest_plan_misses_nothing_narrower_is_tried(random_problem):
    problem = random_problem(0, 6, 3)
    _, seen = searched(problem, -1.0)
    assert seen == [Plan((2,) * 6)]


def test_a_plan_that_breaks_a_limit_is_narrowed_without_an_evaluation(random_problem):
    problem = random_problem(1, 8, 4)
    plain = priced_without_limit(problem)
    limit = problem.total(Quantity.SIZE, Plan((1,) * 8))
    evidence, seen = searched(problem, 1e9, lambda plan: found if (found := plain(plan)).cost <= limit else None)
    assert seen
    assert all(problem.total(Quantity.SIZE, plan) <= limit for plan in seen)
    assert evidence.cheapest().plan.choices == (0,) * 8


def test_it_stops_when_the_samples_are_used_up(random_problem):
    problem = random_problem(2, 10, 5)
    evidence, seen = searched(problem, 0.02, max_evaluations=3)
    assert len(seen) == len(evidence.result().evaluated) == 3


def test_sites_may_have_other_levels(make_problem):
    """One site has a single candidate, and takes no part."""
    problem = make_problem([[10], [10, 20, 30]], [[0.0], [0.3, 0.2, 0.1]])
    evidence, seen = searched(problem, 0.25)
    assert evidence.cheapest().plan.choices == (0, 1)
    assert all(plan.choices[0] == 0 for plan in seen)

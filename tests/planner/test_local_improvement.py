"""Single-site steps: which are tried, and that luck alone is no reason to take one."""

from __future__ import annotations

import numpy as np
import pytest

from planner.evidence import Evaluation, Evidence, PlanPoint
from planner.local_improvement import MOST_STEPS, improve_locally, narrower
from planner.problem import Plan, Problem, Quantity


def at(problem: Problem, *choices: int) -> PlanPoint:
    plan = Plan(choices)
    return PlanPoint(plan, problem.total(Quantity.SIZE, plan), problem.total(Quantity.DAMAGE, plan))


@pytest.fixture
def problem(make_problem) -> Problem:
    """Three sites of three candidates; the damages of a site fall by 4 with every bit."""
    damages = [[scale * 4.0**-choice for choice in range(3)] for scale in (0.004, 0.02, 0.08)]
    return make_problem([[10, 20, 30], [100, 200, 300], [50, 100, 150]], damages)


def improved(
    problem: Problem, known: list[PlanPoint], max_drop: float, drop, **given
) -> tuple[Evidence, list[PlanPoint]]:
    """The evidence after local improvement from the `known` plans, and the steps that were measured."""
    seen: list[PlanPoint] = []

    def evaluate(point: PlanPoint, to_the_end: bool) -> Evaluation:
        seen.append(point)
        return Evaluation(drop(point), 0.002, 1000, int(point.cost))

    evidence = Evidence(evaluate, max_drop)
    for point in known:
        evidence.evaluate(point)
    improve_locally(problem, lambda plan: at(problem, *plan.choices), evidence, **given)
    return evidence, seen[len(known) :]


def test_every_site_takes_its_next_narrower_candidate(problem):
    assert {plan.choices for plan in narrower(problem, Plan((2, 0, 1)))} == {(1, 0, 1), (2, 0, 0)}


def test_it_walks_to_a_plan_that_no_single_step_improves(problem):
    start, miss = at(problem, 2, 2, 2), at(problem, 0, 0, 0)
    evidence, steps = improved(problem, [start, miss], 0.02, lambda point: point.damage)
    best = evidence.cheapest()
    assert best.cost < start.cost
    assert best.damage <= 0.02
    assert 0 < len(steps) <= MOST_STEPS
    # each step changes one site of the best plan before it
    for before, after in zip([start, *steps], steps, strict=False):
        assert np.count_nonzero(np.array(before.plan.choices) != after.plan.choices) == 1


def test_the_step_that_saves_most_among_those_expected_to_keep_the_budget_comes_first(problem):
    start, miss = at(problem, 2, 2, 2), at(problem, 0, 0, 0)
    _, steps = improved(problem, [start, miss], 0.02, lambda point: point.damage)
    assert steps[0] == at(problem, 2, 1, 2)


def test_a_lucky_measurement_does_not_make_a_step_good(problem):
    """The map of two plans says that a step breaks the budget; it is not tried, however lucky it would be."""
    start, miss = at(problem, 1, 1, 1), at(problem, 0, 1, 1)
    evidence, steps = improved(problem, [start, miss], start.damage, lambda point: point.damage)
    assert steps == []
    assert evidence.cheapest() == start


def test_a_step_that_misses_is_not_taken(problem):
    start, miss = at(problem, 2, 2, 2), at(problem, 0, 0, 0)
    evidence, steps = improved(
        problem, [start, miss], 0.02, lambda point: point.damage if point in (start, miss) else 0.05
    )
    assert len(steps) >= 1
    assert evidence.cheapest() == start


def test_without_a_plan_that_meets_there_is_nothing_to_improve(problem):
    _, steps = improved(problem, [at(problem, 2, 2, 2)], -1.0, lambda point: point.damage)
    assert steps == []


def test_a_shift_moves_what_is_predicted_of_every_step(problem):
    """The map expects 0.001 more of every plan, so a step that would just do is not tried."""
    start, miss = at(problem, 2, 2, 2), at(problem, 0, 0, 0)
    drops = {start: start.damage, miss: miss.damage}
    points: list[PlanPoint] = []

    def evaluate(point: PlanPoint, to_the_end: bool) -> Evaluation:
        points.append(point)
        return Evaluation(drops.get(point, 0.0), 0.002, 1000, int(point.cost))

    evidence = Evidence(evaluate, 0.02)
    evidence.evaluate(start)
    evidence.evaluate(miss)
    improve_locally(problem, lambda plan: at(problem, *plan.choices), evidence, most_steps=1, shift=0.001)
    assert points[2].damage == pytest.approx(at(problem, *points[2].plan.choices).damage + 0.001)
    assert evidence.knows(points[2].plan)


def test_steps_that_save_too_little_are_not_tried(problem):
    start, miss = at(problem, 2, 2, 2), at(problem, 0, 0, 0)
    share = 100 / start.cost
    _, steps = improved(problem, [start, miss], 0.02, lambda point: point.damage, least_saving=0.99 * share)
    assert steps[0] == at(problem, 2, 1, 2)
    _, steps = improved(problem, [start, miss], 0.02, lambda point: point.damage, least_saving=1.01 * share)
    assert not steps

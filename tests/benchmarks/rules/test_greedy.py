"""Steepest descent along the cost: what it is worth on additive problems, and its steps under interactions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.rules.greedy import greedy_frontier
from planner.dynamic import Table
from planner.errors import NotApplicable
from planner.frontier import additive_frontier
from planner.problem import Problem, Quantity
from planner.relaxation import relax
from planner.results import Status


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10_000), sites=st.integers(1, 8), formats=st.integers(1, 5))
def test_additive_plans_are_vertices_of_the_relaxation(random_problem, seed, sites, formats):
    """Every vertex, and each of them optimal at its own cost."""
    problem = random_problem(seed, sites, formats)
    frontier, exact = greedy_frontier(problem), additive_frontier(problem)
    table = Table.of(problem, Quantity.SIZE)
    relaxation = relax(table.costs, table.damages)
    vertices = relaxation.costs + table.cheapest + problem.base(Quantity.SIZE)
    assert frontier.costs == pytest.approx(vertices)
    assert frontier.damages == pytest.approx(relaxation.damages)
    for cost, damage in zip(frontier.costs, frontier.damages, strict=True):
        assert exact.damages[exact.least_damage(cost)] == pytest.approx(damage)


def steepest(problem: Problem, choices: np.ndarray) -> np.ndarray | None:
    """The best single step by trying each in full."""
    best, found = np.inf, None
    cost, damage = (problem.totals(quantity, choices[None])[0] for quantity in (Quantity.SIZE, Quantity.DAMAGE))
    for site in range(len(problem.sites)):
        for candidate in range(len(problem.sites[site].candidates)):
            step = choices.copy()
            step[site] = candidate
            saved = cost - problem.totals(Quantity.SIZE, step[None])[0]
            rise = problem.totals(Quantity.DAMAGE, step[None])[0] - damage
            if saved > 0 and rise / saved < best:
                best, found = rise / saved, step
    return found


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 10_000))
def test_every_step_under_interactions_is_the_steepest(random_problem, seed):
    problem = random_problem(seed, 5, 4, interactions=True)
    frontier = greedy_frontier(problem)
    assert frontier.status is Status.HEURISTIC
    assert problem.totals(Quantity.DAMAGE, frontier.choices) == pytest.approx(frontier.damages)
    diagonal = np.diag(problem.interactions).reshape(5, 4)
    plan: np.ndarray | None = diagonal.argmin(axis=1)
    met = set()
    while plan is not None:
        met.add(tuple(plan.tolist()))
        plan = steepest(problem, plan)
    assert {found.choices for found in frontier.plans()} <= met
    cheapest = problem.values(Quantity.SIZE).reshape(5, 4).min(axis=1).sum() + problem.base(Quantity.SIZE)
    assert frontier.costs[0] == pytest.approx(cheapest)


def test_the_damage_is_no_cost(random_problem):
    with pytest.raises(NotApplicable, match="its cost must be size"):
        greedy_frontier(random_problem(0, 3, 3), Quantity.DAMAGE)

"""One plan under interactions: small cases exactly, and against the exact program."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.rules.single_limit import solve_interactions, tabu_search
from planner.descent import Descent
from planner.errors import NotApplicable
from planner.problem import Limits, Problem, Quantity
from tests.planner.linearised import solve_linearised


def middle(problem: Problem, fraction: float) -> float:
    sizes = [[candidate.size_bytes for candidate in site.candidates] for site in problem.sites]
    low, high = sum(map(min, sizes)), sum(map(max, sizes))
    return problem.base(Quantity.SIZE) + low + fraction * (high - low)


@pytest.mark.parametrize("seed", range(12))
def test_small_cases_exactly(random_problem, brute_force, seed):
    problem = random_problem(seed, 5, 4, interactions=True)
    limits = Limits(max_size_bytes=middle(problem, (0.2, 0.5, 0.8)[seed % 3]))
    plan = solve_interactions(problem, limits, steps=300)
    best = brute_force(problem, Quantity.DAMAGE, limits)
    assert problem.total(Quantity.DAMAGE, plan) == pytest.approx(best, rel=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_against_the_exact_program(random_problem, seed):
    problem = random_problem(seed, 9, 4, interactions=True)
    limits = Limits(max_size_bytes=middle(problem, 0.4))
    exact = solve_linearised(problem, Quantity.DAMAGE, limits, time_limit_seconds=60)
    plan = solve_interactions(problem, limits, steps=300)
    damages = [problem.total(Quantity.DAMAGE, each) for each in (plan, exact)]
    assert damages[0] == pytest.approx(damages[1], rel=1e-6)


def test_the_same_seed_gives_the_same_plan(random_problem):
    problem = random_problem(5, 30, 5, interactions=True)
    limits = Limits(max_size_bytes=middle(problem, 0.4))
    first, second = (solve_interactions(problem, limits, seed=3, steps=400) for _ in range(2))
    assert first == second


def test_limits_that_cannot_be_kept(random_problem):
    assert solve_interactions(random_problem(0, 4, 3, interactions=True), Limits(max_size_bytes=1)) is None


def test_a_problem_without_interactions_is_refused(random_problem):
    with pytest.raises(NotApplicable, match="has no interactions"):
        solve_interactions(random_problem(0, 4, 3), Limits())


@pytest.mark.parametrize("seed", range(8))
def test_the_walks_alone_within_two_limits(random_problem, every_plan, seed):
    problem = random_problem(seed, 5, 4, interactions=True)
    descent = Descent.of(problem, [Quantity.SIZE, Quantity.BIT_OPERATIONS])
    choices = every_plan(problem)
    costs = descent.costs[:, choices + problem.offsets[:-1]].sum(axis=2).T
    start = problem.offsets[:-1]
    upper = (descent.costs[:, start].sum(axis=1) + costs.max(axis=0)) / 2
    best = problem.totals(Quantity.DAMAGE, choices[(costs <= upper).all(axis=1)]).min()
    plan = tabu_search(descent, start, upper, 400, np.random.default_rng(seed)) - start
    assert problem.totals(Quantity.DAMAGE, plan[None]) == pytest.approx([best], rel=1e-9)

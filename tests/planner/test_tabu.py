"""Tabu walks: what they keep up to date against the definitions, their limits, and the best plan they say they met."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.descent import Descent
from planner.problem import Problem, Quantity
from planner.tabu import Walks, tabu_frontier

QUANTITIES = [Quantity.SIZE, Quantity.BIT_OPERATIONS]


def uneven(problem: Problem, seed: int) -> Problem:
    """The problem with one to all candidates left to each site."""
    generator = np.random.default_rng(seed)
    counts = [int(generator.integers(1, len(site.candidates), endpoint=True)) for site in problem.sites]
    kept = np.concatenate([offset + np.arange(n) for offset, n in zip(problem.offsets, counts, strict=False)])
    sites = tuple(
        type(site)(site.name, site.candidates[:count]) for site, count in zip(problem.sites, counts, strict=True)
    )
    return Problem(sites, interactions=problem.interactions[np.ix_(kept, kept)])


def damage_of(problem: Problem, plan: np.ndarray) -> float:
    """Of a plan of flat candidate indices."""
    return float(problem.totals(Quantity.DAMAGE, plan[None] - problem.offsets[:-1])[0])


def random_plans(problem: Problem, count: int, generator: np.random.Generator):
    return generator.integers(problem.offsets[:-1], problem.offsets[1:], (count, len(problem.sites)))


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10_000), sites=st.integers(1, 7), formats=st.integers(1, 5), fraction=st.floats(0, 1))
def test_walks_remember_the_least_damage_within_their_limits(random_problem, seed, sites, formats, fraction):
    """Followed from outside with the definitions: damages, costs, and the best plan met."""
    problem = uneven(random_problem(seed, sites, formats, interactions=True), seed)
    descent = Descent.of(problem, QUANTITIES)
    generator = np.random.default_rng(seed)
    plans = random_plans(problem, 3, generator)
    upper = descent.costs[:, random_plans(problem, 3, generator)].sum(axis=2).T * (0.5 + fraction)
    walks = Walks(descent, plans, upper)
    least = np.full(3, np.inf)
    for _ in range(40):
        met = walks._plans
        for row, plan in enumerate(met):
            if (descent.slack(plan, upper[row]) >= 0).all():
                least[row] = min(least[row], damage_of(problem, plan))
        walks.step(generator)
        assert (problem.site_of[walks._plans] == np.arange(sites)).all()
    found = np.isfinite(walks.least)
    assert (found | ~np.isfinite(least)).all()
    assert (walks.least[found] <= least[found] * (1 + 1e-9)).all()
    for row in np.flatnonzero(found):
        assert walks.least[row] == pytest.approx(damage_of(problem, walks.best[row]), rel=1e-8)
        assert (descent.slack(walks.best[row], upper[row]) >= 0).all()
    fresh = Walks(descent, walks._plans, upper)
    assert walks._delta == pytest.approx(fresh._delta, abs=1e-9 * np.abs(fresh._delta).max())
    assert walks._slack == pytest.approx(fresh._slack)
    assert walks._rise == pytest.approx(fresh._rise)


def test_a_walk_leaves_the_plan_that_no_change_improves(random_problem):
    problem = random_problem(1, 12, 4, interactions=True)
    descent = Descent.of(problem, [Quantity.SIZE])
    upper = np.array([descent.costs[0].reshape(12, 4).mean(axis=1).sum()])
    start, damage = descent.improved(problem.offsets[:-1], upper)
    walks = Walks(descent, start[None], upper[None])
    seen = set()
    for _ in range(60):
        walks.step(np.random.default_rng(0))
        seen.add(tuple(walks._plans[0]))
    assert len(seen) > 30
    assert walks.least[0] <= damage * (1 + 1e-9)


@pytest.mark.parametrize("seed", range(8))
def test_small_cases(random_problem, every_plan, seed):
    """A whole frontier closely, within two limits."""
    problem = random_problem(seed, 5, 4, interactions=True)
    descent = Descent.of(problem, QUANTITIES)
    choices = every_plan(problem)
    damages = problem.totals(Quantity.DAMAGE, choices)
    costs = descent.costs[:, choices + problem.offsets[:-1]].sum(axis=2).T
    start = problem.offsets[:-1]
    lowest = descent.costs[:, start].sum(axis=1)
    uppers = lowest + np.linspace(0.1, 0.9, 9)[:, None] * (costs.max(axis=0) - lowest)
    best = [damages[(costs <= upper).all(axis=1)].min() for upper in uppers]
    found = tabu_frontier(descent, np.tile(start, (9, 1)), uppers, 600, np.random.default_rng(seed))
    ratios = np.array([damage_of(problem, plan) for plan in found]) / best
    assert ratios.min() >= 1 - 1e-9
    assert ratios.max() < 1.05
    assert ratios.mean() < 1.01

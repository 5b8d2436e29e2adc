"""Frontiers under interactions: close to the true one of all plans, and within limits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.errors import LimitUnreachable, NotApplicable, ProblemInvalid
from planner.integer import solve_integer
from planner.interactions import frontier_within, interaction_frontier, own_damages
from planner.problem import Limits, Problem, Quantity
from planner.results import Status


def middle(problem: Problem, fraction: float) -> float:
    sizes = [[candidate.size_bytes for candidate in site.candidates] for site in problem.sites]
    low, high = sum(map(min, sizes)), sum(map(max, sizes))
    return problem.base(Quantity.SIZE) + low + fraction * (high - low)


def test_what_it_does_not_solve(random_problem):
    problem = random_problem(0, 4, 3, interactions=True)
    with pytest.raises(NotApplicable, match="has no interactions"):
        own_damages(random_problem(0, 4, 3))
    with pytest.raises(NotApplicable, match="must be size, bit operations or latency"):
        interaction_frontier(problem, Quantity.DAMAGE)
    with pytest.raises(ProblemInvalid, match="at least 1 point, got 0"):
        interaction_frontier(problem, Quantity.SIZE, points=0)


@pytest.mark.parametrize("seed", range(4))
def test_the_frontier_under_interactions(random_problem, every_plan, seed):
    """Undominated, its damages are `x' G x`, and it is close to the true frontier of all plans."""
    problem = random_problem(seed, 6, 4, interactions=True)
    frontier = interaction_frontier(problem, Quantity.SIZE, points=64)
    assert frontier.status is Status.HEURISTIC
    assert (np.diff(frontier.costs) > 0).all()
    assert (np.diff(frontier.damages) < 0).all()
    assert problem.totals(Quantity.DAMAGE, frontier.choices) == pytest.approx(frontier.damages)
    assert problem.totals(Quantity.SIZE, frontier.choices) == pytest.approx(frontier.costs)
    choices = every_plan(problem)
    sizes, damages = problem.totals(Quantity.SIZE, choices), problem.totals(Quantity.DAMAGE, choices)
    best = [damages[sizes <= cost].min() for cost in frontier.costs]
    assert frontier.damages[-1] == pytest.approx(damages.min(), rel=1e-9)
    assert np.mean(frontier.damages / np.array(best)) < 1.05


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10_000))
def test_no_additive_plan_beats_the_frontier_under_interactions(random_problem, seed):
    problem = random_problem(seed, 8, 3, interactions=True)
    frontier = interaction_frontier(problem, Quantity.SIZE, points=30)
    additive = frontier_within(own_damages(problem), Quantity.SIZE, Limits(), 30)
    damages = problem.totals(Quantity.DAMAGE, additive.choices)
    for cost, damage in zip(additive.costs, damages, strict=True):
        assert frontier.damages[frontier.least_damage(cost)] <= damage * (1 + 1e-9)


@pytest.mark.parametrize("interactions", [False, True])
def test_every_plan_of_a_frontier_keeps_every_limit(random_problem, interactions):
    problem = random_problem(2, 12, 5, interactions=interactions)
    operations = problem.values(Quantity.BIT_OPERATIONS).reshape(12, 5)
    limits = Limits(
        max_size_bytes=middle(problem, 0.7),
        max_bit_operations=float(0.6 * operations.min(axis=1).sum() + 0.4 * operations.max(axis=1).sum()),
    )
    make = interaction_frontier if interactions else frontier_within
    frontier = make(problem, Quantity.SIZE, limits=limits, points=20)
    assert problem.within(limits, frontier.choices).all()
    assert 5 <= len(frontier) <= 20
    assert (np.diff(frontier.costs) > 0).all()
    assert (np.diff(frontier.damages) < 0).all()


def test_limits_that_only_together_cannot_be_kept(make_problem):
    """A site is small or quick, never both; the text names what can be reached."""
    problem = make_problem([[10, 20]], [[1.0, 1.0]], bit_operations=[[8, 4]])
    limits = Limits(max_size_bytes=15, max_bit_operations=5)
    with pytest.raises(LimitUnreachable, match=r"max_size_bytes 15 \(the least that the others leave is 20\)"):
        frontier_within(problem, Quantity.SIZE, limits, 10)
    with pytest.raises(LimitUnreachable, match="max_size_bytes is 5, the nearest that can be reached is 10"):
        frontier_within(problem, Quantity.SIZE, Limits(max_size_bytes=5), 10)
    with pytest.raises(LimitUnreachable, match=r"no plan keeps the limits together: max_bit_operations 1 \(the least"):
        frontier_within(problem, Quantity.SIZE, Limits(max_bit_operations=1), 10)


@pytest.mark.parametrize("interactions", [False, True])
def test_plans_get_larger_where_small_and_good_ones_load_too_slowly(make_problem, interactions):
    """The first format is the smallest and the best, so that without the limit nothing else is on the frontier."""
    sites = 6
    generator = np.random.default_rng(0)
    sizes = [[10, 12 + index, 20 + 3 * index] for index in range(sites)]
    damages = [[0.1, 0.5 + share, 0.2 + share / 2] for share in generator.random(sites)]
    G = np.diag(np.concatenate(damages)) if interactions else None
    problem = make_problem(sizes, damages, loads=[[5.0, 1.0, 1.0]] * sites, interactions=G)
    limits = Limits(max_load_ms=5.0 + 5 * 1.0)
    make = interaction_frontier if interactions else frontier_within
    frontier = make(problem, Quantity.SIZE, limits=limits, points=64)
    assert problem.within(limits, frontier.choices).all()
    own = own_damages(problem) if interactions else problem
    cheapest, best = (solve_integer(own, quantity, limits) for quantity in (Quantity.SIZE, Quantity.DAMAGE))
    assert frontier.costs[0] == problem.total(Quantity.SIZE, cheapest)
    assert frontier.damages[-1] == pytest.approx(problem.total(Quantity.DAMAGE, best))
    assert len(frontier) > 4

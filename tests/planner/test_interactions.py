"""Frontiers with and without interactions against every plan there is, on problems small enough to list them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.errors import LimitUnreachable, NotApplicable
from planner.frontier import additive_frontier
from planner.integer import solve_integer
from planner.interactions import frontier_within, interaction_frontier, own_damages, solve_interactions
from planner.problem import Candidate, Limits, PlanSite, Problem, Quantity
from planner.results import Status, undominated
from quantization.formats import IntegerFormat


def random_problem(seed: int, sites: int, formats: int = 3, strength: float = 0.7) -> Problem:
    """Sizes and bit operations grow with the bits, damages fall; interactions of rank 5, as strong as asked."""
    generator = np.random.default_rng(seed)
    rows = []
    plan_sites = []
    for site in range(sites):
        weights, macs = generator.integers(100, 5000), generator.integers(100, 9000)
        own = generator.lognormal(-2, 1)
        direction = generator.normal(size=5)
        direction /= np.linalg.norm(direction)
        candidates = []
        for bits in range(2, 2 + formats):
            damage = own * 4.0**-bits
            noise = generator.normal(size=12)
            noise /= np.linalg.norm(noise)
            rows.append(
                np.sqrt(damage) * np.concatenate([np.sqrt(strength) * direction, np.sqrt(1 - strength) * noise])
            )
            candidates.append(
                Candidate(IntegerFormat(bits), int(weights * bits // 8 + 40), int(macs * bits * 32), float(damage))
            )
        plan_sites.append(PlanSite(f"site{site}", tuple(candidates)))
    Z = np.array(rows)
    return Problem(tuple(plan_sites), base_size_bytes=500, interactions=Z @ Z.T)


def all_plans(problem: Problem) -> np.ndarray:
    return np.array(list(itertools.product(*(range(len(site.candidates)) for site in problem.sites))))


seeds = st.integers(0, 10_000)


@settings(deadline=None, max_examples=40)
@given(seeds, st.integers(1, 7))
def test_the_additive_frontier_is_all_that_nothing_beats(seed, sites):
    problem = random_problem(seed, sites).without_interactions()
    frontier = additive_frontier(problem)
    plans = all_plans(problem)
    costs, damages = problem.totals(Quantity.SIZE, plans), problem.totals(Quantity.DAMAGE, plans)
    best = undominated(costs, damages)
    assert frontier.status is Status.OPTIMAL
    np.testing.assert_allclose(frontier.costs, costs[best])
    np.testing.assert_allclose(frontier.damages, damages[best], rtol=1e-9)


@settings(deadline=None, max_examples=40)
@given(seeds, st.floats(0.0, 1.0), st.floats(0.0, 1.0))
def test_the_integer_program_keeps_two_limits_and_nothing_is_better(seed, size_share, operations_share):
    problem = random_problem(seed, 5).without_interactions()
    plans = all_plans(problem)
    sizes, operations = (problem.totals(q, plans) for q in (Quantity.SIZE, Quantity.BIT_OPERATIONS))
    limits = Limits(
        max_size_bytes=float(sizes.min() + size_share * np.ptp(sizes)),
        max_bit_operations=float(operations.min() + operations_share * np.ptp(operations)),
    )
    kept = problem.within(limits, plans)
    solution = solve_integer(problem, Quantity.DAMAGE, limits)
    if not kept.any():
        assert solution.status is Status.INFEASIBLE
        return
    assert solution.plan is not None
    assert problem.within(limits, np.array([solution.plan.choices]))[0]
    assert solution.value == pytest.approx(problem.totals(Quantity.DAMAGE, plans[kept]).min(), rel=1e-7)


@settings(deadline=None, max_examples=25)
@given(seeds, st.floats(0.1, 0.9))
def test_exchange_descent_comes_within_a_percent_of_the_best_plan(seed, share):
    problem = random_problem(seed, 7)
    plans = all_plans(problem)
    sizes = problem.totals(Quantity.SIZE, plans)
    limit = float(sizes.min() + share * np.ptp(sizes))
    best = problem.totals(Quantity.DAMAGE, plans[sizes <= limit]).min()
    solution = solve_interactions(problem, Quantity.DAMAGE, Limits(max_size_bytes=limit))
    assert solution.plan is not None
    assert problem.total(Quantity.SIZE, solution.plan) <= limit
    assert solution.value <= 1.01 * best


@settings(deadline=None, max_examples=25)
@given(seeds)
def test_the_frontier_with_interactions_is_one_and_beats_the_additive_plans(seed):
    problem = random_problem(seed, 8)
    frontier = interaction_frontier(problem, Quantity.SIZE, points=30)
    assert np.all(np.diff(frontier.costs) > 0)
    assert np.all(np.diff(frontier.damages) < 0)
    np.testing.assert_allclose(frontier.costs, problem.totals(Quantity.SIZE, frontier.choices))
    np.testing.assert_allclose(frontier.damages, problem.totals(Quantity.DAMAGE, frontier.choices))
    additive = frontier_within(own_damages(problem), Quantity.SIZE, Limits(), 30)
    for cost, choices in zip(additive.costs, additive.choices, strict=True):
        there = frontier.damages[frontier.least_damage(cost)]
        assert there <= problem.totals(Quantity.DAMAGE, choices[None])[0] * (1 + 1e-9)


@pytest.mark.parametrize("interacting", [True, False])
def test_other_limits_are_kept_along_the_whole_frontier(interacting):
    problem = random_problem(3, 7)
    plans = all_plans(problem)
    operations = problem.totals(Quantity.BIT_OPERATIONS, plans)
    limits = Limits(max_bit_operations=float(np.median(operations)))
    if interacting:
        frontier = interaction_frontier(problem, Quantity.SIZE, limits=limits, points=20)
    else:
        frontier = frontier_within(problem.without_interactions(), Quantity.SIZE, limits, 20)
    assert len(frontier) > 3
    assert problem.within(limits, frontier.choices).all()


def test_limits_that_exclude_each_other_say_what_can_be_reached():
    problem = random_problem(3, 6)
    cheapest = problem.totals(Quantity.SIZE, all_plans(problem)).min()
    with pytest.raises(LimitUnreachable, match="nearest that can be reached"):
        interaction_frontier(problem, Quantity.SIZE, limits=Limits(max_size_bytes=cheapest - 1))
    with pytest.raises(LimitUnreachable, match=r"no plan keeps the limits together: max_bit_operations 1 \(the least"):
        interaction_frontier(problem, Quantity.SIZE, limits=Limits(max_bit_operations=1.0))


def test_without_interactions_there_is_nothing_to_descend():
    additive = random_problem(0, 3).without_interactions()
    with pytest.raises(NotApplicable, match="no interactions"):
        interaction_frontier(additive, Quantity.SIZE)
    with pytest.raises(NotApplicable, match="minimises the damage"):
        solve_interactions(random_problem(0, 3), Quantity.SIZE, Limits())

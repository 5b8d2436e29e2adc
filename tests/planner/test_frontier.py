"""The frontier against every plan there is: exact, capped within its stated bound, undominated, monotone."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import planner.frontier
from planner.errors import LimitUnreachable, NotApplicable, ProblemInvalid
from planner.frontier import additive_frontier
from planner.problem import Limits, Problem, Quantity
from planner.results import Status, undominated

# sums of eighths are exact, so equality is equality
eighths = st.integers(-40, 400).map(lambda value: value / 8)


@st.composite
def tables(draw, values=eighths):
    """Sizes and damages of one to five sites with one to four candidates, ties and useless candidates included."""
    counts = draw(st.lists(st.integers(1, 4), min_size=1, max_size=5))
    sizes = [draw(st.lists(st.integers(0, 30), min_size=n, max_size=n)) for n in counts]
    damages = [draw(st.lists(values, min_size=n, max_size=n)) for n in counts]
    return sizes, damages


def true_frontier(problem: Problem, choices):
    costs, damages = problem.totals(Quantity.SIZE, choices), problem.totals(Quantity.DAMAGE, choices)
    kept = undominated(costs, damages)
    return costs[kept], damages[kept]


@settings(deadline=None)
@given(table=tables(), first_states=st.sampled_from([1, 3, 10, 2000]))
def test_is_the_frontier_of_all_plans(make_problem, every_plan, table, first_states):
    """With few states in the first pass, the second one prunes by bounds: the result must not change."""
    problem = make_problem(*table, base_size_bytes=7)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planner.frontier, "_FIRST_STATES", first_states)
        frontier = additive_frontier(problem)
    costs, damages = true_frontier(problem, every_plan(problem))
    assert frontier.status is Status.OPTIMAL
    assert frontier.relative_bound == 0
    assert frontier.costs.tolist() == costs.tolist()
    assert frontier.damages.tolist() == damages.tolist()
    assert problem.totals(Quantity.SIZE, frontier.choices).tolist() == costs.tolist()
    assert problem.totals(Quantity.DAMAGE, frontier.choices).tolist() == damages.tolist()


@settings(deadline=None)
@given(table=tables(st.floats(1e-9, 1e3)), max_states=st.integers(1, 12))
def test_capped_it_keeps_its_bound(make_problem, every_plan, table, max_states):
    problem = make_problem(*table)
    frontier = additive_frontier(problem, max_states=max_states)
    for cost, damage in zip(*true_frontier(problem, every_plan(problem)), strict=True):
        reached = frontier.damages[frontier.least_damage(cost)]
        assert reached <= damage * (1 + frontier.relative_bound) * (1 + 1e-9)
        if frontier.status is Status.OPTIMAL:
            assert reached == pytest.approx(damage, rel=1e-9)


@pytest.mark.parametrize("cost", [Quantity.SIZE, Quantity.BIT_OPERATIONS, Quantity.LATENCY])
@pytest.mark.parametrize("seed", range(3))
def test_bounds_prune_nothing_that_counts(random_problem, cost, seed):
    """A problem of real proportions whose first pass is thinned, against the same without any pruning by bounds."""
    problem = random_problem(seed, sites=14, formats=7)
    frontier = additive_frontier(problem, cost)
    costs, damages, offsets = np.zeros(1), np.zeros(1), problem.offsets
    for begin, end in itertools.pairwise(offsets):
        costs = np.add.outer(costs, problem.values(cost)[begin:end]).ravel()
        damages = np.add.outer(damages, problem.values(Quantity.DAMAGE)[begin:end]).ravel()
        kept = undominated(costs, damages)
        costs, damages = costs[kept], damages[kept]
    costs = costs + problem.base(cost)
    assert frontier.status is Status.OPTIMAL
    # sums in another order differ in the last digit, which may split or join points: compare the staircases
    for x, y in zip(costs, damages, strict=True):
        assert frontier.damages[frontier.least_damage(x * (1 + 1e-12))] == pytest.approx(y, rel=1e-9)
    assert abs(len(frontier) - len(costs)) <= 0.001 * len(costs)


@pytest.mark.parametrize("seed", range(2))
def test_a_tolerance_is_kept_and_saves_states(random_problem, seed):
    problem = random_problem(seed, sites=60, formats=7)
    exact = additive_frontier(problem)
    rough = additive_frontier(problem, tolerance=0.01)
    assert exact.status is Status.OPTIMAL
    assert rough.relative_bound <= 0.01
    assert len(rough) < len(exact)
    reached = rough.damages[np.searchsorted(rough.costs, exact.costs, side="right") - 1]
    assert (reached <= exact.damages * 1.01 * (1 + 1e-9)).all()


def test_a_cap_that_binds_is_stated(random_problem):
    problem = random_problem(0, sites=40, formats=7)
    exact = additive_frontier(problem)
    capped = additive_frontier(problem, max_states=500)
    assert exact.status is Status.OPTIMAL
    assert capped.status is Status.BOUNDED
    assert 0 < capped.relative_bound < 0.2
    reached = capped.damages[np.searchsorted(capped.costs, exact.costs, side="right") - 1]
    assert (reached <= exact.damages * (1 + capped.relative_bound) * (1 + 1e-9)).all()
    assert capped.costs[0] == exact.costs[0]
    assert capped.damages[-1] == pytest.approx(exact.damages[-1])


def test_no_point_beats_another_and_limits_are_monotone(random_problem):
    frontier = additive_frontier(random_problem(1, sites=20, formats=6))
    assert (np.diff(frontier.costs) > 0).all()
    assert (np.diff(frontier.damages) < 0).all()
    limits = np.linspace(frontier.costs[0], frontier.costs[-1] * 1.1, 50)
    reached = [frontier.damages[frontier.least_damage(limit)] for limit in limits]
    assert (np.diff(reached) <= 0).all()
    assert all(frontier.costs[frontier.least_damage(limit)] <= limit for limit in limits)


def test_damages_that_end_at_zero(make_problem, every_plan):
    """Sites that may stay as they are: the relative bound has nothing to be relative to, and must not hide it."""
    generator = np.random.default_rng(0)
    sizes = generator.integers(1, 10_000, (9, 4)).cumsum(axis=1)
    damages = np.concatenate([np.sort(generator.lognormal(0, 3, (9, 3)))[:, ::-1], np.zeros((9, 1))], axis=1)
    problem = make_problem(sizes.tolist(), damages.tolist())
    exact = additive_frontier(problem, max_states=2**18)
    assert exact.damages[-1] == 0
    capped = additive_frontier(problem, max_states=50)
    reached = capped.damages[np.searchsorted(capped.costs, exact.costs, side="right") - 1]
    assert capped.status is Status.BOUNDED
    with np.errstate(invalid="ignore"):
        allowed = np.where(exact.damages > 0, exact.damages * (1 + capped.relative_bound), 0.0)
    assert (reached <= allowed * (1 + 1e-9)).all()


@settings(deadline=None)
@given(table=tables(), limit=st.integers(0, 120))
def test_solves_one_limit(make_problem, brute_force, table, limit):
    problem = make_problem(*table)
    frontier = additive_frontier(problem)
    expected = brute_force(problem, Quantity.DAMAGE, Limits(max_size_bytes=limit))
    if np.isinf(expected):
        with pytest.raises(LimitUnreachable):
            frontier.least_damage(limit)
    else:
        assert frontier.damages[frontier.least_damage(limit)] == expected


def test_damage_is_no_cost(make_problem):
    problem = make_problem([[1, 2]], [[2.0, 1.0]])
    with pytest.raises(NotApplicable, match="must be size, bit operations or latency"):
        additive_frontier(problem, Quantity.DAMAGE)


@pytest.mark.parametrize("settings_", [{"max_states": 0}, {"tolerance": 1.0}, {"tolerance": -0.1}])
def test_settings_out_of_range(make_problem, settings_):
    with pytest.raises(ProblemInvalid, match="expected max_states >= 1 and tolerance"):
        additive_frontier(make_problem([[1, 2]], [[2.0, 1.0]]), **settings_)


def test_limits_below_the_cheapest_name_the_nearest_value(make_problem):
    frontier = additive_frontier(make_problem([[10, 20]], [[2.0, 1.0]], base_size_bytes=5))
    with pytest.raises(LimitUnreachable, match=r"max_size_bytes is 14, the nearest that can be reached is 15"):
        frontier.least_damage(14)
    assert frontier.plans()[frontier.least_damage(25)].choices == (1,)


@pytest.mark.parametrize("seed", range(4))
def test_latencies_that_are_no_whole_numbers_add_up_exactly(random_problem, every_plan, seed):
    """Costs of the frontier are those of its plans to the last bit, so that a limit set to one of them keeps that plan;
    a capped frontier too holds plans with their own costs, none below the exact frontier."""
    problem = random_problem(seed, sites=7, formats=4)
    frontier = additive_frontier(problem, Quantity.LATENCY)
    assert problem.totals(Quantity.LATENCY, frontier.choices).tolist() == frontier.costs.tolist()
    choices = every_plan(problem)
    costs, damages = problem.totals(Quantity.LATENCY, choices), problem.totals(Quantity.DAMAGE, choices)
    for cost, damage in zip(frontier.costs, frontier.damages, strict=True):
        assert damage == pytest.approx(damages[costs <= cost].min(), rel=1e-9)
        assert frontier.least_damage(cost) == frontier.costs.tolist().index(cost)
    large = random_problem(seed, sites=60, formats=6)
    capped = additive_frontier(large, Quantity.LATENCY, max_states=64)
    assert capped.status is Status.BOUNDED
    assert large.totals(Quantity.LATENCY, capped.choices).tolist() == capped.costs.tolist()
    exact = additive_frontier(large, Quantity.LATENCY)
    least = exact.damages[[exact.least_damage(cost) for cost in capped.costs]]
    assert (capped.damages >= least * (1 - 1e-9)).all()
    assert (least >= capped.damages / (1 + capped.relative_bound) * (1 - 1e-9)).all()

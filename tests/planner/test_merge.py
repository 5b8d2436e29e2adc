"""Merged sites against every plan of the original problem, costs coupled as the caller says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.errors import NotApplicable, ProblemInvalid
from planner.frontier import additive_frontier
from planner.integer import solve_integer
from planner.merge import JointCost, merge_sites, tie_sites
from planner.problem import Limits, Plan, Problem, Quantity


def product_cost(sites, parts) -> JointCost:
    """Bytes add up; bit operations are the product of the widths, times MACs that the names stand for."""
    macs = sum(int(site.name.removeprefix("site")) + 1 for site in sites)
    operations = macs * int(np.prod([part.format.bits for part in parts]))
    return JointCost(operations)


def coupled_operations(problem: Problem, groups: list[list[int]], choices: np.ndarray) -> np.ndarray:
    """[P]: by the definition, from the original plans."""
    total = np.zeros(len(choices))
    grouped = {site for group in groups for site in group}
    operations = [[c.bit_operations for c in site.candidates] for site in problem.sites]
    for group in groups:
        bits = [[c.format.bits for c in problem.sites[site].candidates] for site in group]
        product = np.prod([np.array(b)[choices[:, site]] for b, site in zip(bits, group, strict=True)], axis=0)
        total += sum(site + 1 for site in group) * product
    for site in set(range(len(problem.sites))) - grouped:
        total += np.array(operations[site])[choices[:, site]]
    return total


GROUPS = [[[0, 1]], [[0, 2], [1, 3]], [[3, 0, 2]], [], [[1]]]


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10_000), groups=st.sampled_from(GROUPS), interactions=st.booleans())
def test_every_merged_plan_is_an_original_one(random_problem, every_plan, seed, groups, interactions):
    """One to one, with the same size and damage, and the coupled costs of the definition."""
    problem = random_problem(seed, 4, 3, interactions=interactions)
    names = [[problem.sites[site].name for site in group] for group in groups]
    merged = merge_sites(problem, names, product_cost)
    choices = every_plan(merged.problem)
    originals = np.array([merged.original(Plan(tuple(row))).choices for row in choices.tolist()])
    assert len({tuple(row) for row in originals.tolist()}) == 3**4
    for quantity in (Quantity.SIZE, Quantity.LOAD, Quantity.DAMAGE):
        assert merged.problem.totals(quantity, choices) == pytest.approx(problem.totals(quantity, originals))
    pairs = [group for group in groups if len(group) > 1]
    operations = coupled_operations(problem, pairs, originals)
    assert merged.problem.totals(Quantity.BIT_OPERATIONS, choices).tolist() == operations.tolist()
    formats = merged.problem.formats(Plan(tuple(choices[-1].tolist())))
    assert set(formats) == {site.name for site in merged.problem.sites}
    for group, name in zip(groups, names, strict=True):
        assert formats["+".join(name)].name == "+".join(["int4/channel"] * len(group))
        assert formats["+".join(name)].bits == 4 * len(group)


@pytest.mark.parametrize("seed", range(6))
def test_solvers_find_the_best_plan_of_the_original_problem(random_problem, every_plan, seed):
    """Least damage within coupled bit operations, by brute force over the original plans."""
    groups = [[0, 2], [1, 3]]
    problem = random_problem(seed, 5, 3, interactions=True)
    merged = merge_sites(problem, [[problem.sites[site].name for site in group] for group in groups], product_cost)
    choices = every_plan(problem)
    operations = coupled_operations(problem, groups, choices)
    limit = float(np.quantile(operations, 0.4))
    every_merged = every_plan(merged.problem)
    within = every_merged[merged.problem.within(Limits(max_bit_operations=limit), every_merged)]
    damages = merged.problem.totals(Quantity.DAMAGE, within)
    best = problem.totals(Quantity.DAMAGE, choices[operations <= limit]).min()
    assert damages.min() == pytest.approx(best, rel=1e-6)
    original = merged.original(Plan(tuple(within[damages.argmin()])))
    assert problem.total(Quantity.DAMAGE, original) == pytest.approx(best, rel=1e-6)
    additive = Problem(problem.sites).totals(Quantity.DAMAGE, choices)
    plan = solve_integer(merged.problem, Quantity.DAMAGE, Limits(max_bit_operations=limit))
    own = Problem(problem.sites).total(Quantity.DAMAGE, merged.original(plan))
    assert own == pytest.approx(additive[operations <= limit].min(), rel=1e-6)
    frontier = additive_frontier(merged.problem, Quantity.BIT_OPERATIONS)
    for cost, damage in zip(frontier.costs, frontier.damages, strict=True):
        assert damage == pytest.approx(additive[operations <= cost].min())


def test_groups_that_cannot_be_merged(random_problem):
    problem = random_problem(0, 4, 3)
    for groups, text in (
        ([["site0", "nowhere"]], "names the site 'nowhere'"),
        ([["site0", "site1"], ["site1", "site2"]], "site 'site1' is in two groups"),
        ([[]], "needs at least one site, got none"),
    ):
        with pytest.raises(ProblemInvalid, match=text):
            merge_sites(problem, groups, product_cost)


def test_too_many_combinations_are_named(random_problem):
    problem = random_problem(0, 5, 5)
    merge_sites(problem, [[f"site{i}" for i in range(4)]], product_cost)  # 625
    with pytest.raises(NotApplicable, match=r"3,125 combinations of formats, at most 1,024.*site0 \(5 formats\)"):
        merge_sites(problem, [[f"site{i}" for i in range(5)]], product_cost)


@pytest.mark.parametrize("groups", [[[0, 1]], [[1, 2], [0, 3]], [[3, 1, 0]]])
def test_two_steps_are_one(random_problem, every_plan, groups):
    """Tied and then merged: the same plans of the first problem as one step after the other."""
    problem = random_problem(0, 5, 3, interactions=True)
    tied = tie_sites(problem, [["site1", "site3"]])
    names = [[tied.problem.sites[site].name for site in group] for group in groups]

    def cost(sites, parts) -> JointCost:
        return JointCost(0)

    merged = merge_sites(tied.problem, names, cost)
    both = tied.then(merged)
    assert both.problem is merged.problem
    choices = every_plan(both.problem)
    for row in choices.tolist():
        plan = Plan(tuple(row))
        assert both.original(plan) == tied.original(merged.original(plan))
    originals = np.array([both.original(Plan(tuple(row))).choices for row in choices.tolist()])
    assert (originals[:, 1] == originals[:, 3]).all()
    assert both.problem.totals(Quantity.DAMAGE, choices) == pytest.approx(problem.totals(Quantity.DAMAGE, originals))

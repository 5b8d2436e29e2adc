"""Tied sites against every plan of the original problem in which they share a format."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.errors import ConstraintImpossible, ProblemInvalid
from planner.frontier import additive_frontier
from planner.merge import tie_sites
from planner.problem import Plan, PlanSite, Problem, Quantity

GROUPS = [[[0, 1]], [[0, 2], [1, 3]], [[3, 0, 2]], [], [[1]]]


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10_000), groups=st.sampled_from(GROUPS), interactions=st.booleans())
def test_every_tied_plan_is_an_original_one_with_equal_formats(random_problem, every_plan, seed, groups, interactions):
    problem = random_problem(seed, 4, 3, interactions=interactions)
    tied = tie_sites(problem, [[problem.sites[site].name for site in group] for group in groups])
    choices = every_plan(tied.problem)
    originals = np.array([tied.original(Plan(tuple(row))).choices for row in choices.tolist()])
    everything = every_plan(problem)
    shared = np.ones(len(everything), dtype=bool)
    for group in groups:
        shared &= (everything[:, group] == everything[:, group[:1]]).all(axis=1)
    assert {tuple(row) for row in originals.tolist()} == {tuple(row) for row in everything[shared].tolist()}
    for quantity in (Quantity.SIZE, Quantity.BIT_OPERATIONS, Quantity.LATENCY, Quantity.DAMAGE):
        totals = tied.problem.totals(quantity, choices)
        assert totals == pytest.approx(problem.totals(quantity, originals), rel=1e-9, abs=1e-12)


def without(problem: Problem, site: int, choices: set[int]) -> Problem:
    """The problem in which one site lacks these candidates."""
    sites = list(problem.sites)
    kept = tuple(c for choice, c in enumerate(sites[site].candidates) if choice not in choices)
    sites[site] = PlanSite(sites[site].name, kept)
    return replace(problem, sites=tuple(sites))


def test_only_formats_that_all_sites_have_are_left(random_problem):
    problem = without(random_problem(0, 3, 4), 0, {0, 2})
    tied = tie_sites(problem, [["site0", "site2"]])
    assert [candidate.format.bits for candidate in tied.problem.sites[0].candidates] == [3, 5]
    assert [site.name for site in tied.problem.sites] == ["site0+site2", "site1"]
    original = tied.original(Plan((1, 0)))
    assert original.choices == (1, 0, 3)
    assert problem.formats(original)["site0"] == problem.formats(original)["site2"]


def test_the_frontier_of_the_tied_problem_is_that_of_the_plans_with_equal_formats(random_problem, every_plan):
    problem = random_problem(3, 5, 3)
    tied = tie_sites(problem, [["site4", "site1"]])
    frontier = additive_frontier(tied.problem)
    every = every_plan(problem)
    every = every[every[:, 1] == every[:, 4]]
    sizes, damages = problem.totals(Quantity.SIZE, every), problem.totals(Quantity.DAMAGE, every)
    for cost, damage in zip(frontier.costs, frontier.damages, strict=True):
        assert damage == pytest.approx(damages[sizes <= cost].min(), rel=1e-9)


def test_sites_without_a_common_format_are_refused_with_what_each_has(random_problem):
    problem = without(without(random_problem(0, 2, 4), 0, {0, 1}), 1, {2, 3})
    with pytest.raises(ConstraintImpossible, match=r"site0: int4/channel, int5/channel; site1: int2/channel, int3/"):
        tie_sites(problem, [["site0", "site1"]])


def test_a_site_in_two_groups_is_refused(random_problem):
    with pytest.raises(ProblemInvalid, match="'site1' is in two groups"):
        tie_sites(random_problem(0, 3, 2), [["site0", "site1"], ["site1", "site2"]])

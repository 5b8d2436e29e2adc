"""The monotone frontier against every plan that keeps the rule."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.rules.monotone import monotone_frontier
from planner.errors import ConstraintImpossible, NotApplicable, ProblemInvalid
from planner.frontier import additive_frontier
from planner.problem import PlanSite, Problem, Quantity
from planner.results import Status, undominated

eighths = st.integers(-40, 400).map(lambda value: value / 8)


@st.composite
def tables(draw):
    counts = draw(st.lists(st.integers(1, 4), min_size=1, max_size=5))
    sizes = [draw(st.lists(st.integers(0, 30), min_size=n, max_size=n)) for n in counts]
    damages = [draw(st.lists(eighths, min_size=n, max_size=n)) for n in counts]
    traces = draw(st.lists(st.integers(0, 4), min_size=len(counts), max_size=len(counts)))
    return sizes, damages, traces


@settings(deadline=None)
@given(table=tables())
def test_is_the_frontier_of_all_monotone_plans(make_problem, every_plan, table):
    """Formats are int2, int3, ..., so a choice is a width."""
    sizes, damages, traces = table
    problem = make_problem(sizes, damages, base_size_bytes=7)
    choices = every_plan(problem)
    order = np.argsort(traces, kind="stable")
    choices = choices[(np.diff(choices[:, order], axis=1) >= 0).all(axis=1)]
    frontier = monotone_frontier(problem, traces)
    costs, totals = problem.totals(Quantity.SIZE, choices), problem.totals(Quantity.DAMAGE, choices)
    kept = undominated(costs, totals)
    assert frontier.status is Status.OPTIMAL
    assert frontier.costs.tolist() == costs[kept].tolist()
    assert frontier.damages.tolist() == totals[kept].tolist()
    assert problem.totals(Quantity.SIZE, frontier.choices).tolist() == costs[kept].tolist()
    assert problem.totals(Quantity.DAMAGE, frontier.choices).tolist() == totals[kept].tolist()
    assert (np.diff(frontier.choices[:, order], axis=1) >= 0).all()


def test_the_rule_never_helps(random_problem):
    problem = random_problem(0, 12, 5)
    traces = np.random.default_rng(0).random(12)
    free, ruled = additive_frontier(problem), monotone_frontier(problem, traces)
    for cost, damage in zip(ruled.costs, ruled.damages, strict=True):
        assert free.damages[free.least_damage(cost)] <= damage * (1 + 1e-12)


def test_what_it_refuses(random_problem):
    problem = random_problem(0, 3, 3)
    with pytest.raises(ProblemInvalid, match="one finite trace for each of 3 sites"):
        monotone_frontier(problem, [1.0, 2.0])
    with pytest.raises(NotApplicable, match="its cost must be size"):
        monotone_frontier(problem, [1.0, 2.0, 3.0], Quantity.DAMAGE)
    wide, narrow = problem.sites[0], problem.sites[1]
    impossible = Problem(
        (PlanSite("wide", wide.candidates[2:]), PlanSite("narrow", narrow.candidates[:1])),
    )
    with pytest.raises(ConstraintImpossible, match="site 'narrow' has no format as wide"):
        monotone_frontier(impossible, [1.0, 2.0])

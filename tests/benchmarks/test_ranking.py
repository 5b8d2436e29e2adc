"""The baseline itself: its list of plans by definition, and its search against a scan of the list."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.ranking import ranked_plans, smallest_within
from planner.problem import Candidate, Plan, PlanSite, Problem, Quantity
from quantization.formats import IntegerFormat


def layers(sites: int, formats: int) -> Problem:
    return Problem(
        tuple(
            PlanSite(
                f"site{site}",
                tuple(Candidate(IntegerFormat(2 + i), 100 * (site + 1) * (2 + i), 0, 0.0) for i in range(formats)),
            )
            for site in range(sites)
        )
    )


@settings(deadline=None, max_examples=40)
@given(sites=st.integers(1, 6), formats=st.integers(1, 5), seed=st.integers(0, 1000))
def test_each_plan_narrows_one_site_in_the_order_of_the_scores(sites, formats, seed):
    problem = layers(sites, formats)
    scores = np.random.default_rng(seed).random(sites * formats)
    choices = np.array([plan.choices for plan in ranked_plans(problem, scores)])
    assert (choices[0] == formats - 1).all()
    assert (choices[-1] == 0).all()
    steps = np.diff(choices, axis=0)
    assert (steps <= 0).all()
    assert ((steps < 0).sum(axis=1) == 1).all()
    taken = [(site, row[site]) for row, site in zip(choices[1:], (steps < 0).argmax(axis=1), strict=True)]
    values = [scores[site * formats + choice] for site, choice in taken]
    assert values == sorted(values, reverse=True)
    assert (np.diff(problem.totals(Quantity.SIZE, choices)) < 0).all()


@settings(deadline=None)
@given(drops=st.lists(st.integers(0, 50), min_size=1, max_size=40).map(sorted), budget=st.integers(-1, 51))
def test_the_smallest_plan_within_a_budget(drops, budget):
    """On a drop that grows along the list: what a scan finds, with few measurements."""
    plans = [Plan((index,)) for index in range(len(drops))]
    asked: list[int] = []

    def drop(plan: Plan) -> float:
        asked.append(plan.choices[0])
        return float(drops[plan.choices[0]])

    found = smallest_within(plans, drop, budget)
    within = [index for index, value in enumerate(drops) if value <= budget]
    assert found == (plans[within[-1]] if within else None)
    assert len(set(asked)) <= 2 + np.ceil(np.log(max(len(drops), 2)) / np.log(4 / 3))

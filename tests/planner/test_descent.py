"""Exchange descent under interactions: what it ends at is a local optimum by definition."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.descent import Descent
from planner.errors import NotApplicable
from planner.problem import Limits, Quantity


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10_000), sites=st.integers(1, 5), formats=st.integers(1, 4), fraction=st.floats(0, 1))
def test_no_exchange_improves_where_it_ends(random_problem, seed, sites, formats, fraction):
    """Every change of one or two sites, tried in full: none within the limits does less damage."""
    problem = random_problem(seed, sites, formats, interactions=True)
    sizes = problem.values(Quantity.SIZE).reshape(sites, formats)
    low, high = sizes.min(axis=1).sum(), sizes.max(axis=1).sum()
    upper = np.array([low + fraction * (high - low), 1e9])
    limits = Limits(max_size_bytes=upper[0] + problem.base(Quantity.SIZE), max_bit_operations=upper[1])
    cheapest = problem.offsets[:-1] + sizes.argmin(axis=1)
    plan, damage = Descent.of(problem, [Quantity.SIZE, Quantity.BIT_OPERATIONS]).improved(cheapest, upper)
    choices = plan - problem.offsets[:-1]
    neighbours = []
    for first, second in itertools.product(range(sites), repeat=2):
        for a, b in itertools.product(range(formats), repeat=2):
            neighbour = choices.copy()
            neighbour[first], neighbour[second] = a, b
            neighbours.append(neighbour)
    within = np.array(neighbours)
    within = within[problem.within(limits, within)]
    assert problem.within(limits, choices[None]).all()
    assert damage == pytest.approx(problem.totals(Quantity.DAMAGE, choices[None])[0], rel=1e-9)
    assert problem.totals(Quantity.DAMAGE, within).min() >= damage * (1 - 1e-9)


def test_without_interactions_there_is_nothing_to_descend(random_problem):
    with pytest.raises(NotApplicable, match="has no interactions"):
        Descent.of(random_problem(0, 4, 3), [Quantity.SIZE])

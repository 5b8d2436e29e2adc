"""The integer programs against every plan there is, and against the published plans of HAWQ-V3."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.frontier import additive_frontier
from planner.integer import solve_integer
from planner.problem import Limits, Problem, Quantity, limit_name
from planner.results import Status
from tests.planner.linearised import solve_linearised

GOLDEN = json.loads((Path(__file__).parent / "golden" / "hawqv3_resnet18.json").read_text())


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 10_000),
    sites=st.integers(1, 4),
    formats=st.integers(1, 4),
    fractions=st.tuples(*[st.none() | st.floats(-0.05, 1.05)] * 3),
    objective=st.sampled_from(Quantity),
)
def test_any_mix_of_limits(random_problem, every_plan, brute_force, seed, sites, formats, fractions, objective):
    problem = random_problem(seed, sites, formats)
    limits = _limits(problem, every_plan(problem), fractions)
    plan = solve_integer(problem, objective, limits)
    expected = brute_force(problem, objective, limits)
    if math.isinf(expected):
        assert plan is None
    else:
        assert problem.total(objective, plan) == pytest.approx(expected, rel=1e-9)
        assert problem.within(limits, np.array([plan.choices])).all()


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 10_000),
    sites=st.integers(1, 4),
    formats=st.integers(1, 3),
    fractions=st.tuples(*[st.none() | st.floats(-0.05, 1.05)] * 3),
    objective=st.sampled_from([Quantity.DAMAGE, Quantity.SIZE]),
)
def test_the_linearised_program_knows_interactions(
    random_problem, every_plan, brute_force, seed, sites, formats, fractions, objective
):
    problem = random_problem(seed, sites, formats, interactions=True)
    limits = _limits(problem, every_plan(problem), fractions)
    plan = solve_linearised(problem, objective, limits)
    expected = brute_force(problem, objective, limits)
    # a product of candidates is exact only up to the solver's tolerance
    assert (plan is None) == math.isinf(expected)
    assert plan is None or problem.total(objective, plan) == pytest.approx(expected, rel=1e-6)


def _limits(problem: Problem, choices, fractions) -> Limits:
    """Limits at these fractions of the range that the plans span; some cannot be kept, some are met exactly."""
    chosen = {}
    for name, quantity, fraction in zip(
        ("max_size_bytes", "max_bit_operations", "max_latency_ms"), Quantity, fractions, strict=False
    ):
        if fraction is not None:
            totals = problem.totals(quantity, choices)
            low, high = totals.min(), totals.max()
            chosen[name] = max(float(low + fraction * (high - low)), 0.0)
    return Limits(**chosen)


@pytest.mark.parametrize("fraction", [0.05, 0.3, 0.6, 0.95])
@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_the_frontier_where_every_plan_cannot_be_tried(random_problem, seed, fraction):
    problem = random_problem(seed, sites=40, formats=7)
    sizes = problem.values(Quantity.SIZE).reshape(40, 7)
    limit = problem.base(Quantity.SIZE) + sizes.min(axis=1).sum() * (1 - fraction) + sizes.max(axis=1).sum() * fraction
    limits = Limits(max_size_bytes=float(limit))
    plan = solve_integer(problem, Quantity.DAMAGE, limits)
    frontier = additive_frontier(problem)
    damage = problem.total(Quantity.DAMAGE, plan)
    assert damage == pytest.approx(frontier.damages[frontier.least_damage(limit)], rel=1e-8)


@pytest.mark.parametrize("solve", [solve_integer, solve_linearised])
def test_a_limit_that_is_met_exactly_and_missed_by_less_than_the_solver_sees(make_problem, solve):
    """HiGHS keeps rows to a tolerance of 1e-6; a plan must keep its limit."""
    G = np.diag([2.0, 1.0, 2.0, 1.0])
    problem = make_problem([[1000, 1001], [1000, 1001]], [[2.0, 1.0], [2.0, 1.0]], interactions=G)
    exact = solve(problem, Quantity.DAMAGE, Limits(max_size_bytes=2002))
    less = solve(problem, Quantity.DAMAGE, Limits(max_size_bytes=2002 - 1e-7))
    assert [problem.total(Quantity.DAMAGE, plan) for plan in (exact, less)] == [2.0, 3.0]
    assert solve(problem, Quantity.DAMAGE, Limits(max_size_bytes=1999)) is None


def test_small_damages_are_told_apart(make_problem):
    """HiGHS ends at an absolute gap of 1e-6: damages far below it must still be compared."""
    problem = make_problem([[1, 2, 3]] * 3, [[3e-9, 2e-9, 1e-9], [3e-9, 1.9e-9, 1e-9], [3e-9, 2e-9, 1.5e-9]])
    plan = solve_integer(problem, Quantity.DAMAGE, Limits(max_size_bytes=5))
    assert problem.total(Quantity.DAMAGE, plan) == pytest.approx(6.9e-9, rel=1e-12)


@pytest.mark.parametrize("name", sorted(GOLDEN["published"]))
def test_hawqv3_published_plans(make_problem, name):
    """All nine configurations that HAWQ-V3 published for ResNet18, from the inputs that it published."""
    kind, fraction = name.split("_")
    quantity, problem, tied = _hawqv3(make_problem, kind)
    rows = problem.values(quantity).reshape(-1, 2)
    low, high = rows[:, 0].sum(), rows[:, 1].sum()
    limit = float(low + float(fraction) * (high - low))
    chosen = solve_integer(problem, Quantity.DAMAGE, Limits(**{limit_name(quantity): limit}))
    frontier = additive_frontier(problem, quantity)
    assert frontier.status is Status.OPTIMAL
    for plan in (chosen, frontier.plans()[frontier.least_damage(limit)]):
        bits = [0] * len(GOLDEN["mac_millions"])
        for layers, choice in zip(tied, plan.choices, strict=True):
            for layer in layers:
                bits[layer] = (4, 8)[choice]
        assert bits == GOLDEN["published"][name]


def _hawqv3(make_problem, kind: str):
    """The published problem: 4 or 8 bits a layer, layers that are tied being one site; damage is Omega."""
    trace = np.array(GOLDEN["mean_hessian_trace"])
    damages = np.stack([trace * GOLDEN["squared_error_4bit"], trace * GOLDEN["squared_error_8bit"]], axis=1)
    eight_bits = np.rint(np.array(GOLDEN["megabytes_8bit"]) * 2**20)
    sizes = np.stack([eight_bits / 2, eight_bits], axis=1)
    # its bit operations count multiply-accumulates by 1/64 at 4 bit and 1/16 at 8 bit: in proportion to bits squared
    operations = np.rint(np.outer(np.array(GOLDEN["mac_millions"]) * 1e6, (4 * 4, 8 * 8)))
    latencies = np.stack([GOLDEN["latency_ms_4bit"], GOLDEN["latency_ms_8bit"]], axis=1)
    second = {pair[1] for pair in GOLDEN["tied_layers"]}
    partner = dict(GOLDEN["tied_layers"])
    tied = [
        [layer, partner[layer]] if layer in partner else [layer] for layer in range(len(trace)) if layer not in second
    ]

    def merged(table):
        return [table[layers].sum(axis=0).tolist() for layers in tied]

    problem = make_problem(
        merged(sizes.astype(int)),
        merged(damages),
        bit_operations=merged(operations.astype(int)),
        latencies=merged(latencies),
    )
    quantity = {"modelsize": Quantity.SIZE, "bops": Quantity.BIT_OPERATIONS, "latency": Quantity.LATENCY}[kind]
    return quantity, problem, tied

"""Evolution on fitness functions whose best plan is known, and with means that end early."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.errors import ProblemInvalid
from planner.evolution import evolve
from planner.problem import Limits, Plan, Problem, Quantity


def equal_layers(make_problem, sites: int = 6, formats: int = 4) -> Problem:
    """Layers of one size, whose damage says nothing."""
    return make_problem([[100 * (i + 1) for i in range(formats)]] * sites, [[0.0] * formats] * sites)


def distance_to(target, noise: float = 0.0):
    """Squared distance from a target plan; with noise that shrinks as samples grow, the same for the same question."""

    def fitness(plan: Plan, samples: int) -> float:
        drawn = np.random.default_rng([samples, *plan.choices]).normal() if samples < 64 else 0.0
        return float(sum((a - b) ** 2 for a, b in zip(plan.choices, target, strict=True))) + noise * drawn

    return fitness


@pytest.mark.parametrize("seed", range(6))
def test_finds_the_best_plan_of_the_same_cost(make_problem, seed):
    """Noise on the small stages. Every plan of the same cost is tried for the oracle."""
    problem = equal_layers(make_problem)
    target = (0, 3, 1, 2, 0, 3)
    start = Plan((1, 1, 1, 2, 2, 2))
    fitness = distance_to(target, noise=0.5)
    found = evolve(problem, start, fitness, samples=64, max_evaluations=90, generator=np.random.default_rng(seed))
    same_cost = (plan for plan in itertools.product(range(4), repeat=6) if sum(plan) == sum(start.choices))
    assert found.fitness == min(fitness(Plan(plan), 64) for plan in same_cost) == 0.0
    assert problem.total(Quantity.SIZE, found.plan) == problem.total(Quantity.SIZE, start)
    assert found.evaluations <= 90
    assert found.start_fitness == fitness(start, 64)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10_000), most=st.floats(0, 12), worst=st.booleans())
def test_is_never_less_fit_than_its_start_and_keeps_its_limits(random_problem, seed, most, worst):
    """Whatever the means, whatever the fitness: here one that means nothing, or is no number."""
    problem = random_problem(seed, 8, 4)
    generator = np.random.default_rng(seed)
    start = Plan(tuple(generator.integers(0, 4, 8).tolist()))

    def fitness(plan: Plan, samples: int) -> float:
        value = np.random.default_rng([seed, samples, *plan.choices]).normal()
        return math.nan if worst and value > 0 else float(value)

    limits = Limits(max_size_bytes=problem.total(Quantity.SIZE, start))
    found = evolve(
        problem,
        start,
        fitness,
        samples=100,
        allowed=lambda plan: bool(problem.within(limits, np.array([plan.choices])).all()),
        max_evaluations=most,
        generator=generator,
    )
    assert found.fitness <= found.start_fitness
    own = fitness(found.plan, 100)
    assert found.fitness == (math.inf if math.isnan(own) else own)
    assert found.evaluations <= max(1.0, most) + 1e-9
    assert problem.total(Quantity.SIZE, found.plan) <= limits.max_size_bytes


def test_the_deadline_ends_it_between_measurements(make_problem):
    problem, start = equal_layers(make_problem), Plan((1, 1, 1, 2, 2, 2))
    asked = []

    def expired() -> bool:
        asked.append(None)
        return len(asked) > 5

    seen = []

    def fitness(plan: Plan, samples: int) -> float:
        seen.append(samples)
        return 0.0 if plan == start else 1.0

    found = evolve(
        problem,
        start,
        fitness,
        samples=32,
        max_evaluations=1e9,
        generator=np.random.default_rng(0),
        expired=expired,
    )
    assert found.plan == start
    assert seen == [32, 2, 2, 2, 2, 2]
    assert found.generations == 0


def test_stages_grow_and_thin_out(make_problem):
    problem, start = equal_layers(make_problem), Plan((1, 1, 1, 2, 2, 2))
    seen = []

    def fitness(plan: Plan, samples: int) -> float:
        seen.append(samples)
        return 0.0

    evolve(problem, start, fitness, samples=160, max_evaluations=4.0, generator=np.random.default_rng(0))
    assert seen[:22] == [160] + [10] * 16 + [40] * 4 + [160]


def test_the_same_seed_gives_the_same_plan(make_problem):
    problem, start = equal_layers(make_problem), Plan((1, 1, 1, 2, 2, 2))
    first, second = (
        evolve(
            problem,
            start,
            distance_to((0, 3, 1, 2, 0, 3), 0.5),
            samples=64,
            max_evaluations=20,
            generator=np.random.default_rng(7),
        )
        for _ in range(2)
    )
    assert first == second


def test_without_sites_of_equal_cost_nothing_can_switch(make_problem):
    problem = make_problem([[10, 20], [30, 60]], [[0.0, 0.0]] * 2)
    start = Plan((0, 1))
    found = evolve(
        problem, start, lambda plan, n: 1.0, samples=8, max_evaluations=50, generator=np.random.default_rng(0)
    )
    assert (found.plan, found.evaluations, found.generations) == (start, 1.0, 0)
    with pytest.raises(ProblemInvalid, match="at least 1 sample, got 0"):
        evolve(problem, start, lambda plan, n: 1.0, samples=0, max_evaluations=5, generator=np.random.default_rng(0))

"""Small planning problems, and the oracle that tries every plan."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from planner.problem import Candidate, Limits, PlanSite, Problem, Quantity
from quantization.formats import IntegerFormat

ProblemFactory = Callable[..., Problem]


def build_problem(
    sizes: Sequence[Sequence[int]],
    damages: Sequence[Sequence[float]],
    *,
    bit_operations: Sequence[Sequence[int]] | None = None,
    latencies: Sequence[Sequence[float]] | None = None,
    loads: Sequence[Sequence[float]] | None = None,
    interactions: NDArray[np.float64] | None = None,
    base_size_bytes: int = 0,
) -> Problem:
    """A problem from one row per site; the formats are int2, int3, … in the order of the columns."""
    sites = []
    for index, row in enumerate(sizes):
        candidates = tuple(
            Candidate(
                IntegerFormat(2 + choice),
                size,
                bit_operations[index][choice] if bit_operations else 0,
                damages[index][choice],
                latencies[index][choice] if latencies else None,
                loads[index][choice] if loads else 0.0,
            )
            for choice, size in enumerate(row)
        )
        sites.append(PlanSite(f"site{index}", candidates))
    return Problem(tuple(sites), base_size_bytes=base_size_bytes, interactions=interactions)


def all_choices(problem: Problem) -> NDArray[np.int64]:
    """Every plan, [P, S]."""
    return np.array(list(itertools.product(*(range(len(site.candidates)) for site in problem.sites))))


def least(problem: Problem, objective: Quantity, limits: Limits) -> float:
    """The least objective over every plan within the limits, or infinity."""
    choices = all_choices(problem)
    within = problem.within(limits, choices)
    return float(problem.totals(objective, choices[within]).min()) if within.any() else math.inf


@pytest.fixture(scope="session")
def make_problem() -> ProblemFactory:
    return build_problem


@pytest.fixture(scope="session")
def every_plan() -> Callable[[Problem], NDArray[np.int64]]:
    return all_choices


@pytest.fixture(scope="session")
def brute_force() -> Callable[[Problem, Quantity, Limits], float]:
    return least


@pytest.fixture(scope="session")
def random_problem() -> ProblemFactory:
    """`(seed, sites, formats, interactions=False)`: layers of real sizes, damages as nearest rounding makes them.

    With interactions, errors of all candidates share few directions, so that they add up or cancel strongly.
    """

    def make(seed: int, sites: int, formats: int, *, interactions: bool = False) -> Problem:
        generator = np.random.default_rng(seed)
        weights = 64 * generator.integers(1, 400, sites)
        bits = np.arange(2, 2 + formats)
        sizes = np.ceil(np.outer(weights, bits) / 8).astype(int) + generator.integers(0, 300, (sites, formats))
        scale = generator.lognormal(-4, 1.5, (sites, 1))
        damages = scale * 4.0**-bits * generator.lognormal(0, 0.2, (sites, formats))
        G = None
        if interactions:
            count = sites * formats
            directions = generator.normal(size=(count, max(2, count // 4)))
            directions *= np.sqrt(damages.ravel() / np.square(directions).sum(axis=1))[:, None]
            G = directions @ directions.T
        operations = np.outer(generator.integers(1, 1000, sites), bits**2)
        return build_problem(
            sizes.tolist(),
            damages.tolist(),
            bit_operations=operations.tolist(),
            latencies=(sizes / 1e4 + 0.01 * generator.random(sizes.shape)).tolist(),
            loads=generator.random(sizes.shape).tolist(),
            interactions=G,
            base_size_bytes=1234,
        )

    return make

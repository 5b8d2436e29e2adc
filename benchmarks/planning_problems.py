"""Planning problems like those of real networks: sizes as the exporter writes them, damages of Gaussian weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import cycle, islice

import numpy as np

from planner.problem import Candidate, Limits, PlanSite, Problem, Quantity
from quantization.export.cost import weight_bytes
from quantization.formats import IntegerFormat

BITS = range(2, 9)
# squared error of the best uniform grid for Gaussian weights, relative to their energy, by bits
RELATIVE_ERROR = {2: 1.19e-1, 3: 3.74e-2, 4: 1.15e-2, 5: 3.5e-3, 6: 1.04e-3, 7: 3.04e-4, 8: 8.8e-5}
INTERACTION_SITES = 50


@dataclass(frozen=True)
class Case:
    """A problem with interactions and a limit on its size."""

    problem: Problem
    limit: float

    @property
    def limits(self) -> Limits:
        return Limits(max_size_bytes=self.limit)


def layer_shapes() -> Iterator[tuple[int, ...]]:
    """Weights of a bottleneck residual network of 101 layers, over and over."""
    shapes = []
    for width, blocks in ((64, 3), (128, 4), (256, 23), (512, 3)):
        for block in range(blocks):
            first = max(64, width * 2 if block == 0 else width * 4)
            shapes += [(width, first, 1, 1), (width, width, 3, 3), (4 * width, width, 1, 1)]
    return cycle(shapes)


def additive_problem(seed: int, sites: int) -> Problem:
    """Layers with traces spread over decades, and the damage of rounding Gaussian weights."""
    generator = np.random.default_rng(seed)
    plan_sites = []
    for index, shape in enumerate(islice(layer_shapes(), sites)):
        energy = 2.0 * shape[0]  # weights of variance 2 / fan-in
        trace = 10 ** generator.normal(-2, 0.7)
        candidates = tuple(
            Candidate(
                IntegerFormat(bits),
                weight_bytes(IntegerFormat(bits), shape, 0, f"weight{index}"),
                0,
                float(trace * energy * RELATIVE_ERROR[bits] * generator.lognormal(0, 0.1)),
            )
            for bits in BITS
        )
        plan_sites.append(PlanSite(f"layer{index}", candidates))
    return Problem(tuple(plan_sites))


def interaction_case(seed: int) -> Case:
    """Errors of all layers in a space of 32 to 128 directions, so that they add up and cancel.

    The candidates of a site share a direction to some degree, and all sites lean towards a common one.
    """
    generator = np.random.default_rng(seed)
    additive = additive_problem(seed, INTERACTION_SITES)
    rank = int(generator.integers(32, 129))
    common = generator.normal(size=rank)
    site = generator.normal(size=(INTERACTION_SITES, 1, rank)) + generator.uniform(0, 1) * common
    errors = site + generator.uniform(0.3, 1.5) * generator.normal(size=(INTERACTION_SITES, len(BITS), rank))
    errors = errors.reshape(-1, rank)
    errors *= np.sqrt(additive.values(Quantity.DAMAGE) / np.square(errors).sum(axis=1))[:, None]
    problem = replace(additive, interactions=errors @ errors.T)
    return Case(problem, size_limit(problem, generator.uniform(0.1, 0.7)))


def size_limit(problem: Problem, fraction: float) -> float:
    sizes = problem.values(Quantity.SIZE).reshape(len(problem.sites), -1)
    low, high = sizes.min(axis=1).sum(), sizes.max(axis=1).sum()
    return float(low + fraction * (high - low))

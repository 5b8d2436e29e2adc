"""Polish: evolution of the plan that a search chose, by what is measured of it, as long as there is time.

In turns a plan of the same cost group evolves to less measured loss (`planner.evolution`), and what that gained is
offered to the search, which may spend it on a cheaper plan; evolution then goes on from there. So whenever the time is
up, what was gained before is already part of the evidence.

The evolved plan's own prediction is what evolution overruled. Its damage is therefore that of the plan it began with,
times the ratio of their measured losses: the map from damage to drop was fitted to predictions, and measured losses
differ from these by a factor.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from planner.evidence import PlanPoint
from planner.evolution import Evolved, Fitness, evolve
from planner.level_bisection import Priced
from planner.problem import Plan, Problem, Quantity

# of one turn, in evaluations on all samples: the start's, and 8 generations of 3
TURN = 25.0
# turns in a row without a fitter plan after which none is expected: 512 children
MOST_IDLE_TURNS = 4

# takes a plan that loses less than the one before at no higher cost, and says where to go on from
Offer = Callable[[PlanPoint], PlanPoint]


@dataclass(frozen=True, slots=True)
class Polished:
    """What was done: `generations`, `evaluations` of a plan on all samples, plans `offered`."""

    generations: int
    evaluations: float
    offered: int


def polish(
    start: PlanPoint,
    problem: Problem,
    priced: Priced,
    fitness: Fitness,
    offer: Offer,
    *,
    samples: int,
    cost: Quantity,
    generator: np.random.Generator,
    expired: Callable[[], bool],
) -> Polished:
    """Evolve `start` and what `offer` makes of it until the time is up or nothing fitter is found.

    Args:
        start: what the search chose.
        problem: the sites and their costs.
        priced: the exact cost of a child; one that breaks a limit or costs more than its parent is not measured.
        fitness: measured loss; remembered by the caller, because every turn asks for its start's again.
        offer: called with every plan that lost less than the one before it.
        samples: all that `fitness` has.
        cost: what makes plans one group.
        generator: of the switches.
        expired: called between measurements.
    """
    priced = functools.cache(priced)  # where few switches are allowed, the same plans are drawn again and again
    current = start
    generations, evaluations, offered, idle = 0, 0.0, 0, 0
    while idle < MOST_IDLE_TURNS and not expired():

        def allowed(plan: Plan, most: float = current.cost) -> bool:
            point = priced(plan)
            return point is not None and point.cost <= most

        evolved = evolve(
            problem,
            current.plan,
            fitness,
            samples=samples,
            cost=cost,
            allowed=allowed,
            max_evaluations=TURN,
            generator=generator,
            expired=expired,
        )
        generations += evolved.generations
        evaluations += evolved.evaluations
        if not evolved.generations:
            break  # no time, or no two sites that could switch
        point = priced(evolved.plan)
        if evolved.plan == current.plan or point is None:
            idle += 1
            continue
        idle, offered = 0, offered + 1
        current = offer(PlanPoint(point.plan, point.cost, _damage(current, evolved)))
    return Polished(generations, evaluations, offered)


def _damage(start: PlanPoint, evolved: Evolved) -> float:
    """The damage of the start in proportion to the measured losses; as it is where there is none."""
    if start.damage <= 0 or not 0 < evolved.start_fitness < math.inf:
        return start.damage
    return start.damage * evolved.fitness / evolved.start_fitness

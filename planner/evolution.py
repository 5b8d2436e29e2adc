"""Evolution of one plan by what is measured of it: polish for the time that is left (EvoPress, arXiv 2410.14649).

A child differs from its parent by one to three level switches: of two sites with the same costs one goes a level up and
the other a level down, so the plan's cost stays. The children of a generation are compared in three stages on growing
samples, and only the survivors of one stage reach the next. The parent is replaced by a child that is fitter on all
samples, else it stays, so that the result is never less fit than the start.

Differences from the paper: in half of the switches the two sites exchange their levels, because a step to a format that
no site had may cost something of its own (a file holds one function for each width); the last stage is on all samples,
and the parent's fitness there is remembered, not measured again; costs count as the same up to 1 %, because files also
hold names, and the caller says which children are allowed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from planner.errors import ProblemInvalid
from planner.problem import Plan, Problem, Quantity

# measured damage of a plan (mean KL, say; lower is fitter) over the first so many samples: the same every time
Fitness = Callable[[Plan, int], float]

# children in each stage, and the share of all samples on which they are compared
_CHILDREN = (16, 4, 1)
_SHARES = (1 / 16, 1 / 4, 1.0)
_MOST_SWITCHES = 3
_SAME_COST = 0.01
# share of the switches in which two sites exchange their levels
_EXCHANGES = 0.5
# draws for one child: all of them may be forbidden, or undo each other
_MOST_DRAWS = 20


@dataclass(frozen=True, slots=True)
class Evolved:
    """The fittest plan; `start_fitness` and `fitness` are on all samples.

    `evaluations` is what was measured, in evaluations of one plan on all samples; `generations` those completed.
    """

    plan: Plan
    fitness: float
    start_fitness: float
    evaluations: float
    generations: int


def evolve(
    problem: Problem,
    start: Plan,
    fitness: Fitness,
    *,
    samples: int,
    cost: Quantity = Quantity.SIZE,
    allowed: Callable[[Plan], bool] = lambda _plan: True,
    max_evaluations: float,
    generator: np.random.Generator,
    expired: Callable[[], bool] = lambda: False,
) -> Evolved:
    """The fittest plan found by level switches from `start`, until the evaluations or the time are used up.

    Args:
        problem: the sites and their costs; its damages are not used.
        start: measured once, whatever is left.
        fitness: see `Fitness`; a value that is not a number counts as infinite.
        samples: all of them, at least 1.
        cost: what a switch leaves as it is.
        allowed: called with every child; a child for which it is False is not measured.
        max_evaluations: in evaluations on all samples; one is for the start.
        generator: of the switches.
        expired: called before every other measurement; True ends the evolution.

    Raises:
        ProblemInvalid: `samples` below 1.
    """
    if samples < 1:
        raise ProblemInvalid(f"evolution needs at least 1 sample, got {samples}")
    mutation = _Mutation(problem, cost, allowed, generator)
    measured = _Measured(fitness, samples, max_evaluations, expired)
    parent = start
    start_fitness = least = measured.first(start)
    generations = 0
    while children := mutation.children(parent):
        survivor = _survivor(children, measured)
        if survivor is None:
            break
        generations += 1
        value, child = survivor
        if value < least:
            parent, least = child, value
    return Evolved(parent, least, start_fitness, measured.evaluations, generations)


def _survivor(children: Sequence[Plan], measured: _Measured) -> tuple[float, Plan] | None:
    """The child that survives all stages with its fitness on all samples; None when the means ended before."""
    values: list[float] = []
    for kept, share in zip((*_CHILDREN[1:], 1), _SHARES, strict=True):
        values = []
        for child in children:
            value = measured(child, share)
            if value is None:
                return None
            values.append(value)
        order = np.argsort(values, kind="stable")[:kept]
        children, values = [children[i] for i in order], [values[i] for i in order]
    return values[0], children[0]


class _Measured:
    """The fitness with its means: evaluations and time."""

    def __init__(self, fitness: Fitness, samples: int, most: float, expired: Callable[[], bool]) -> None:
        self._fitness = fitness
        self._samples = samples
        self._most = most
        self._expired = expired
        self.evaluations = 0.0

    def first(self, plan: Plan) -> float:
        return self._value(plan, self._samples)

    def __call__(self, plan: Plan, share: float) -> float | None:
        """The fitness on this share of the samples; None when there are no means for it."""
        samples = max(1, math.ceil(share * self._samples))
        if self.evaluations + samples / self._samples > self._most or self._expired():
            return None
        return self._value(plan, samples)

    def _value(self, plan: Plan, samples: int) -> float:
        self.evaluations += samples / self._samples
        value = float(self._fitness(plan, samples))
        return math.inf if math.isnan(value) else value


class _Mutation:
    """Level switches.

    `_levels[i]`: the candidates of site i by rising cost, `_rank[i]` the place of each among them; `_groups`: sites of
    the same costs.
    """

    def __init__(
        self, problem: Problem, cost: Quantity, allowed: Callable[[Plan], bool], generator: np.random.Generator
    ) -> None:
        self._allowed = allowed
        self._generator = generator
        values = problem.values(cost)
        costs = [values[a:b] for a, b in zip(problem.offsets[:-1], problem.offsets[1:], strict=True)]
        self._levels = [np.argsort(own, kind="stable").tolist() for own in costs]
        self._rank = [np.argsort(levels).tolist() for levels in self._levels]
        ladders = [np.sort(own) for own in costs]
        groups: list[list[int]] = []
        for site, ladder in enumerate(ladders):
            for group in groups:
                if _same(ladders[group[0]], ladder):
                    group.append(site)
                    break
            else:
                groups.append([site])
        self._groups = [group for group in groups if len(group) > 1 and len(ladders[group[0]]) > 1]
        sizes = np.array([len(group) for group in self._groups])
        self._weights = sizes / max(1, sizes.sum())

    def children(self, parent: Plan) -> list[Plan]:
        """Different children of `parent`, as many as a generation has, or as could be drawn."""
        children: dict[Plan, None] = {}
        if not self._groups:
            return []
        for _ in range(_MOST_DRAWS * _CHILDREN[0]):
            if len(children) == _CHILDREN[0]:
                break
            child = self._child(parent)
            if child != parent and child not in children and self._allowed(child):
                children[child] = None
        return list(children)

    def _child(self, parent: Plan) -> Plan:
        choices = list(parent.choices)
        switches = min(self._generator.integers(1, _MOST_SWITCHES, size=2, endpoint=True))
        for _ in range(int(switches)):
            group = self._groups[self._generator.choice(len(self._groups), p=self._weights)]
            up, down = self._generator.choice(group, 2, replace=False).tolist()
            levels = self._rank[up][choices[up]], self._rank[down][choices[down]]
            levels = levels[::-1] if self._generator.random() < _EXCHANGES else (levels[0] + 1, levels[1] - 1)
            if levels[0] < len(self._levels[up]) and levels[1] >= 0:
                choices[up], choices[down] = self._levels[up][levels[0]], self._levels[down][levels[1]]
        return Plan(tuple(choices))


def _same(first: NDArray[np.float64], second: NDArray[np.float64]) -> bool:
    return len(first) == len(second) and bool(np.allclose(first, second, rtol=_SAME_COST, atol=0))

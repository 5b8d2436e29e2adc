"""Frontiers of plans, and which points are on one."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from planner.errors import LimitUnreachable, ProblemInvalid
from planner.problem import Plan, Problem, Quantity, limit_name


class Status(StrEnum):
    """What is known about a result."""

    OPTIMAL = "optimal"
    """Nothing better exists."""
    BOUNDED = "bounded"
    """Something better may exist, but not beyond the stated bound."""
    HEURISTIC = "heuristic"
    """No bound is known."""


@dataclass(frozen=True, eq=False)
class Frontier:
    """Plans that no other plan beats in both cost and predicted damage, cost ascending, damage strictly descending.

    `costs` and `damages` are [P] (base cost included), `choices` is [P, S]. `relative_bound`: at every cost the exact
    frontier's damage is at least `damage / (1 + relative_bound)`; 0 with status OPTIMAL, infinite where nothing is
    known.
    """

    cost: Quantity
    status: Status
    costs: NDArray[np.float64]
    damages: NDArray[np.float64]
    choices: NDArray[Any]
    relative_bound: float

    def __post_init__(self) -> None:
        if not len(self.costs) == len(self.damages) == len(self.choices) > 0:
            raise ProblemInvalid("a frontier needs as many costs as damages and plans, and at least one")
        for array in (self.costs, self.damages, self.choices):
            array.flags.writeable = False

    @classmethod
    def of(
        cls, problem: Problem, cost: Quantity, choices: NDArray[Any], status: Status, relative_bound: float
    ) -> Frontier:
        """The plans of `choices` [P, S] that no other one of them beats."""
        costs, damages = problem.totals(cost, choices), problem.totals(Quantity.DAMAGE, choices)
        kept = undominated(costs, damages)
        return cls(cost, status, costs[kept], damages[kept], choices[kept], relative_bound)

    def __len__(self) -> int:
        return len(self.costs)

    def plans(self) -> tuple[Plan, ...]:
        """All plans, cost ascending."""
        return tuple(Plan(tuple(row)) for row in self.choices.tolist())

    def least_damage(self, max_cost: float) -> int:
        """Index of the plan with the least damage that costs at most `max_cost`.

        Raises:
            LimitUnreachable: even the cheapest plan costs more.
        """
        index = int(np.searchsorted(self.costs, max_cost, side="right")) - 1
        if index < 0:
            raise LimitUnreachable(
                f"{limit_name(self.cost)} is {max_cost:g}, the nearest that can be reached is {self.costs[0]:.17g}"
            )
        return index


def undominated(costs: NDArray[np.float64], damages: NDArray[np.float64]) -> NDArray[np.int64]:
    """Indices of the points that no other beats in both, cost ascending; of equal points the first."""
    order = np.lexsort((damages, costs))
    sorted_damages = damages[order]
    keep = np.ones(len(order), dtype=bool)
    keep[1:] = sorted_damages[1:] < np.minimum.accumulate(sorted_damages)[:-1]
    return order[keep]

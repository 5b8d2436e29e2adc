"""The linear relaxation of the additive problem: the lower convex hull of what any plan can reach.

Letting a site mix its formats turns the choice of one format per site into a convex problem whose whole frontier is
known in closed form (the multiple-choice knapsack of Sinha and Zoltners, 1979): every site contributes the segments of
its own hull, and segments are taken by falling slope. Between two vertices the relaxation is a line; no plan lies
below it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Relaxation:
    """Segments of all sites by falling slope, and the vertices that they lead through.

    `slopes` (damage saved per unit of cost), `runs` (cost), `drops` (damage saved) and `sites` are [J]; `costs` and
    `damages` are the J + 1 vertices, cost ascending, beginning with the cheapest plan.
    """

    slopes: FloatArray
    runs: FloatArray
    drops: FloatArray
    sites: NDArray[np.int64]
    costs: FloatArray
    damages: FloatArray

    def damage_at(self, cost: FloatArray) -> FloatArray:
        """A lower bound on the damage of any plan of this cost."""
        return np.interp(cost, self.costs, self.damages)


def relax(costs: Sequence[FloatArray], damages: Sequence[FloatArray]) -> Relaxation:
    """The relaxation of sites whose candidates are efficient and cost ascending (one array per site)."""
    hulls = [_lower_hull(*site) for site in zip(costs, damages, strict=True)]
    runs = np.concatenate([np.diff(own[hull]) for own, hull in zip(costs, hulls, strict=True)])
    drops = np.concatenate([-np.diff(own[hull]) for own, hull in zip(damages, hulls, strict=True)])
    sites = np.repeat(np.arange(len(hulls)), [len(hull) - 1 for hull in hulls])
    slopes = drops / runs
    order = np.argsort(-slopes, kind="stable")
    runs, drops = runs[order], drops[order]
    cheapest = sum(float(site_costs[0]) for site_costs in costs)
    best = sum(float(site_damages[-1]) for site_damages in damages)
    # from the small end: the last vertices keep their relative precision even when damages span many decades
    remaining = np.append(np.cumsum(drops[::-1])[::-1], 0.0)
    return Relaxation(
        slopes[order], runs, drops, sites[order], cheapest + np.append(0.0, np.cumsum(runs)), best + remaining
    )


def _lower_hull(costs: FloatArray, damages: FloatArray) -> list[int]:
    """Indices of the vertices of the lower convex hull of efficient points, cost ascending."""
    hull: list[int] = []
    for index in range(len(costs)):
        while len(hull) >= 2:
            a, b = hull[-2], hull[-1]
            above = (damages[b] - damages[a]) * (costs[index] - costs[a]) >= (damages[index] - damages[a]) * (
                costs[b] - costs[a]
            )
            if not above:
                break
            hull.pop()
        hull.append(index)
    return hull

"""HAWQ-V2's own rule for allocating bits (arXiv 1911.03852): a site of higher mean trace never gets fewer bits.

The rule cuts the search space from `formats ** sites` plans to the monotone ones. Under it the frontier is found
exactly, by dynamic programming over the sites by rising trace. A state is (cost, damage, bits of the last site); one
that another beats in cost and damage without having more bits goes, because the other leaves every choice open.

For comparison only: the frontier without the rule (`planner.frontier`) is never above this one, and as fast.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from planner.errors import ConstraintImpossible, NotApplicable, ProblemInvalid
from planner.problem import Problem, Quantity
from planner.results import Frontier, Status, undominated

FloatArray = NDArray[np.float64]
IndexArray = NDArray[np.int64]

# states in memory at once
_MOST_STATES = 1 << 20


@dataclass(frozen=True, eq=False)
class _States:
    """Undominated states; `parents` and `choices` say from which state of the site before, and how, each came."""

    costs: FloatArray
    damages: FloatArray
    bits: IndexArray
    parents: IndexArray
    choices: IndexArray


def monotone_frontier(problem: Problem, traces: Sequence[float], cost: Quantity = Quantity.SIZE) -> Frontier:
    """All plans that keep the rule and that no other such plan beats in cost and in the sum of damages.

    Interactions are left out. The status OPTIMAL speaks of the plans that keep the rule.

    Args:
        problem: the sites, each with candidates of known bits.
        traces: [S] mean Hessian traces; of equal ones the site that comes first counts as the lower.
        cost: not the damage.

    Raises:
        NotApplicable: `cost` is the damage, or more than 2**20 states are alive at once.
        ProblemInvalid: not one finite trace for each site.
        ConstraintImpossible: the formats that the sites may have leave no plan that keeps the rule.
    """
    if cost is Quantity.DAMAGE:
        raise NotApplicable("a frontier has the damage on one axis; its cost must be size, bit operations or latency")
    if len(traces) != len(problem.sites) or not np.isfinite(traces).all():
        raise ProblemInvalid(f"expected one finite trace for each of {len(problem.sites)} sites, got {list(traces)}")
    costs, damages = problem.values(cost), problem.values(Quantity.DAMAGE)
    order = np.argsort(np.asarray(traces), kind="stable")
    zero = np.zeros(1, dtype=np.int64)
    history = [_States(np.zeros(1), np.zeros(1), zero, zero, zero)]
    for site in order:
        own = slice(problem.offsets[site], problem.offsets[site + 1])
        bits = np.array([candidate.format.bits for candidate in problem.sites[site].candidates])
        history.append(_extended(history[-1], costs[own], damages[own], bits))
        if not len(history[-1].costs):
            raise ConstraintImpossible(
                f"site {problem.sites[site].name!r} has no format as wide as a site of lower trace needs; "
                "allow it more bits, or plan without the monotone rule"
            )
    last = history[-1]
    kept = undominated(last.costs, last.damages)
    choices = _traced(history, order, kept)
    return Frontier(
        cost, Status.OPTIMAL, last.costs[kept] + problem.base(cost), last.damages[kept], choices, relative_bound=0.0
    )


def _extended(states: _States, costs: FloatArray, damages: FloatArray, bits: IndexArray) -> _States:
    """Every state with every candidate of the next site that is at least as wide, without those that are dominated."""
    parents, choices = np.nonzero(states.bits[:, None] <= bits)
    if len(parents) > _MOST_STATES:
        raise NotApplicable(
            f"the monotone rule leaves {len(parents):,} states, at most {_MOST_STATES:,} are kept; "
            "use the frontier without the rule"
        )
    new = _States(
        states.costs[parents] + costs[choices],
        states.damages[parents] + damages[choices],
        bits[choices],
        parents,
        choices,
    )
    kept: list[IndexArray] = []
    front = np.zeros(0, dtype=np.int64)
    for width in np.unique(bits):
        # those of fewer bits come first, so that of equal ones they stay
        rivals = np.concatenate([front, np.flatnonzero(new.bits == width)])
        front = rivals[undominated(new.costs[rivals], new.damages[rivals])]
        kept.append(front[new.bits[front] == width])
    index = np.concatenate(kept)
    return _States(new.costs[index], new.damages[index], new.bits[index], new.parents[index], new.choices[index])


def _traced(history: Sequence[_States], order: IndexArray, last: IndexArray) -> IndexArray:
    """[P, S]: the choices that led to these states of the last site."""
    choices = np.empty((len(last), len(order)), dtype=np.int64)
    current = last
    for site, states in zip(order[::-1], history[:0:-1], strict=True):
        choices[:, site] = states.choices[current]
        current = states.parents[current]
    return choices

"""Sites that must share a format become one site: its candidates are the formats that all of them have.

Costs and damages add up over the group. With T [M, K] the 0-1 matrix that maps a format of the group to the candidates
of its sites, interactions become `G' = T G T'`, as for merged sites (`planner.merge`), of which this is the part where
all formats are equal.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from planner.errors import ConstraintImpossible
from planner.merge import MergedProblem, grouped, joined
from planner.problem import Candidate, PlanSite, Problem


def tie_sites(problem: Problem, groups: Sequence[Sequence[str]]) -> MergedProblem:
    """The problem with every group of sites as one site, at the place and with the order of formats of its first site.

    Args:
        problem: of sites that are decided one by one.
        groups: names of the sites that share a format; a site is in one group at most.

    Raises:
        ConstraintImpossible: the sites of a group have no format in common; the text names those of each.
        ProblemInvalid: an unknown site, one in two groups, a group without sites.
    """
    members = grouped(problem, groups)
    combinations = tuple(_shared(problem, group) for group in members)
    return joined(problem, members, combinations, lambda group, choices: _tied(problem, group, choices))


def _shared(problem: Problem, group: tuple[int, ...]) -> NDArray[np.int64]:
    """[formats, group]: for every format that all sites have, the index of its candidate at each of them."""
    names = [[candidate.format.name for candidate in problem.sites[site].candidates] for site in group]
    common = [name for name in names[0] if all(name in others for others in names[1:])]
    if not common:
        each = "; ".join(
            f"{problem.sites[site].name}: {', '.join(has)}" for site, has in zip(group, names, strict=True)
        )
        raise ConstraintImpossible(
            f"sites that share a format have none in common ({each}); allow them all the same format, or decide "
            "them apart"
        )
    return np.array([[has.index(name) for has in names] for name in common], dtype=np.int64)


def _tied(problem: Problem, group: tuple[int, ...], choices: NDArray[np.int64]) -> PlanSite:
    candidates = []
    for row in choices.tolist():
        parts = [problem.sites[site].candidates[choice] for site, choice in zip(group, row, strict=True)]
        latencies = [part.latency_ms for part in parts if part.latency_ms is not None]
        candidates.append(
            Candidate(
                parts[0].format,
                sum(part.size_bytes for part in parts),
                sum(part.bit_operations for part in parts),
                math.fsum(part.damage for part in parts),
                sum(latencies) if len(latencies) == len(parts) else None,
            )
        )
    return PlanSite("+".join(problem.sites[site].name for site in group), tuple(candidates))

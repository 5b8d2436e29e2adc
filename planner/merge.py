"""Sites that are decided together become one site, whose candidates are choices of one candidate for each of them.

A bit operation count is MACs x weight bits x activation bits, a product over two decisions: no sum over sites. Merged,
the weight and the activation that feeds it are one decision, whose candidates are all pairs of formats. Sites that must
share a format are tied: their candidates are the formats that all of them have. Damages add up. With T [M, K] the 0-1
matrix that maps merged candidates to those they consist of, the plan x of the original sites is `T' y` for the plan y
of the merged ones, so the interactions become

    G' = T G T',        y' G' y = x' G x.

A site in no group stays as it is, so a problem of some merged and some single sites is still one problem.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from planner.errors import ConstraintImpossible, NotApplicable, ProblemInvalid
from planner.problem import Candidate, Plan, PlanSite, Problem
from quantization.formats import Format

# a site of more candidates than this makes every solver slow, and G' large
MOST_COMBINATIONS = 1024


@dataclass(frozen=True, slots=True)
class JointFormat:
    """The formats of several sites that are decided together, in the order of the group.

    `name` is such as `int4/channel+int8/tensor`; `bits` are those of all parts: of a weight and an activation what one
    multiplication reads.
    """

    name: str
    bits: float

    @classmethod
    def of(cls, candidates: tuple[Candidate, ...]) -> Format:
        """That of these candidates. No format of any weight: solvers and plans read only its name and its bits."""
        parts = [candidate.format for candidate in candidates]
        return cast(Format, cls("+".join(part.name for part in parts), sum(part.bits for part in parts)))


@dataclass(frozen=True, slots=True)
class JointCost:
    """What the candidates of a group cost together, but for bytes and time to load, which always add up."""

    bit_operations: int
    latency_ms: float | None = None


# the cost of one combination: the sites of a group, in its order, and the candidate of each
GroupCost = Callable[[tuple[PlanSite, ...], tuple[Candidate, ...]], JointCost]


@dataclass(frozen=True, eq=False)
class MergedProblem:
    """A problem of merged sites, and the way back.

    `groups[i]` are the indices of the original sites that the merged site i consists of; `combinations[i]`
    [candidates, group] is the choice of each of them for every candidate of the merged site.
    """

    problem: Problem
    groups: tuple[tuple[int, ...], ...]
    combinations: tuple[NDArray[np.int64], ...]

    def then(self, further: MergedProblem) -> MergedProblem:
        """Both steps as one: `further` merged sites of this problem."""
        return MergedProblem(
            further.problem,
            tuple(tuple(site for part in group for site in self.groups[part]) for group in further.groups),
            tuple(
                np.hstack([self.combinations[part][choices[:, column]] for column, part in enumerate(group)])
                for group, choices in zip(further.groups, further.combinations, strict=True)
            ),
        )

    def original(self, plan: Plan) -> Plan:
        """The plan of the original problem that a plan of the merged one stands for."""
        choices = [0] * sum(len(group) for group in self.groups)
        for group, combinations, choice in zip(self.groups, self.combinations, plan.choices, strict=True):
            for site, own in zip(group, combinations[choice].tolist(), strict=True):
                choices[site] = own
        return Plan(tuple(choices))


def merge_sites(problem: Problem, groups: Sequence[Sequence[str]], cost: GroupCost) -> MergedProblem:
    """The problem with every group of sites merged into one, at the place of its first site.

    Args:
        problem: of sites that are decided one by one.
        groups: names of the sites that are decided together; a site is in one group at most.
        cost: what a combination costs.

    Raises:
        ProblemInvalid: an unknown site, one in two groups, a group without sites.
        NotApplicable: a group has more than 1,024 combinations; the text names its sites.
    """
    members = _members(problem, groups)
    combinations = tuple(_combinations(problem, group) for group in members)
    return _merged(problem, members, combinations, JointFormat.of, cost)


def tie_sites(problem: Problem, groups: Sequence[Sequence[str]]) -> MergedProblem:
    """The problem with every group of sites that must share a format as one site, at the place of its first site.

    Its candidates are the formats that all of them have, in the order of the first site; costs add up.

    Args:
        problem: of sites that are decided one by one.
        groups: names of the sites that share a format; a site is in one group at most.

    Raises:
        ConstraintImpossible: the sites of a group have no format in common; the text names those of each.
        ProblemInvalid: an unknown site, one in two groups, a group without sites.
    """
    members = _members(problem, groups)
    combinations = tuple(_shared_formats(problem, group) for group in members)
    return _merged(problem, members, combinations, lambda parts: parts[0].format, _sum_of_costs)


def _merged(
    problem: Problem,
    members: tuple[tuple[int, ...], ...],
    combinations: tuple[NDArray[np.int64], ...],
    format_of: Callable[[tuple[Candidate, ...]], Format],
    cost: GroupCost,
) -> MergedProblem:
    """The problem whose sites are the groups in `members` with these `combinations`."""
    if all(len(group) == 1 for group in members):  # in their order: the interactions need no copy
        return MergedProblem(problem, members, combinations)

    def site(group: tuple[int, ...], choices: NDArray[np.int64]) -> PlanSite:
        if len(group) == 1:
            return problem.sites[group[0]]
        sites = tuple(problem.sites[site] for site in group)
        candidates = []
        for row in choices.tolist():
            parts = tuple(site.candidates[choice] for site, choice in zip(sites, row, strict=True))
            costs = cost(sites, parts)
            damage = math.fsum(part.damage for part in parts)
            size = sum(part.size_bytes for part in parts)
            load_ms = math.fsum(part.load_ms for part in parts)
            candidates.append(
                Candidate(format_of(parts), size, costs.bit_operations, damage, costs.latency_ms, load_ms)
            )
        return PlanSite("+".join(site.name for site in sites), tuple(candidates))

    interactions = None
    if problem.interactions is not None:
        T = _transfer(problem, members, combinations)
        interactions = np.asarray(T @ (T @ problem.interactions).T)
    sites = tuple(map(site, members, combinations))
    return MergedProblem(replace(problem, sites=sites, interactions=interactions), members, combinations)


def _sum_of_costs(_sites: tuple[PlanSite, ...], parts: tuple[Candidate, ...]) -> JointCost:
    latencies = [part.latency_ms for part in parts if part.latency_ms is not None]
    operations = sum(part.bit_operations for part in parts)
    return JointCost(operations, sum(latencies) if len(latencies) == len(parts) else None)


def _members(problem: Problem, groups: Sequence[Sequence[str]]) -> tuple[tuple[int, ...], ...]:
    """Indices of the sites of all groups and of all single sites, by their first site.

    Raises:
        ProblemInvalid: an unknown site, one in two groups, a group without sites.
    """
    index = {site.name: position for position, site in enumerate(problem.sites)}
    taken: set[str] = set()
    members = []
    for group in groups:
        if not group:
            raise ProblemInvalid("a group of merged sites needs at least one site, got none")
        for name in group:
            if name not in index:
                raise ProblemInvalid(f"a group names the site {name!r}, which the problem does not have")
            if name in taken:
                raise ProblemInvalid(f"site {name!r} is in two groups, or twice in one; merge the groups into one")
            taken.add(name)
        members.append(tuple(index[name] for name in group))
    members += [(position,) for name, position in index.items() if name not in taken]
    return tuple(sorted(members, key=min))


def _combinations(problem: Problem, group: tuple[int, ...]) -> NDArray[np.int64]:
    """[combinations, group]: every choice of one candidate for each site, the last one changing fastest."""
    counts = [len(problem.sites[site].candidates) for site in group]
    if len(group) > 1 and math.prod(counts) > MOST_COMBINATIONS:
        sites = ", ".join(f"{problem.sites[site].name} ({n} formats)" for site, n in zip(group, counts, strict=True))
        raise NotApplicable(
            f"sites that are decided together have {math.prod(counts):,} combinations of formats, at most "
            f"{MOST_COMBINATIONS:,} are possible: {sites}; allow some of them fewer formats"
        )
    return np.array(list(itertools.product(*map(range, counts))), dtype=np.int64)


def _shared_formats(problem: Problem, group: tuple[int, ...]) -> NDArray[np.int64]:
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


def _transfer(
    problem: Problem, members: Sequence[tuple[int, ...]], combinations: Sequence[NDArray[np.int64]]
) -> csr_array:
    """T [M, K]: which original candidates each merged one consists of.

    Args:
        problem: of the original sites.
        members: indices of the sites of every group.
        combinations: [candidates, group] for every group.
    """
    columns = [problem.offsets[list(group)] + choices for group, choices in zip(members, combinations, strict=True)]
    lengths = np.concatenate([np.full(len(choices), choices.shape[1]) for choices in columns])
    flat = np.concatenate([choices.ravel() for choices in columns])
    rows = np.repeat(np.arange(len(lengths)), lengths)
    return csr_array((np.ones(len(flat)), (rows, flat)), shape=(len(lengths), len(problem.site_of)))

"""Plans that anybody would try by hand: every layer at one width. No search may do worse than they do."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from pipeline.search_space import SearchSpace
from planner.evidence import Evidence, PlanPoint
from planner.problem import Plan, PlanSite

_SMALLEST = 1e-4  # of a budget, beside which measurements of a few hundred samples are coarse


def uniform_points(space: SearchSpace) -> list[PlanPoint]:
    """For each width, widest first, the plan that gives every site a format of that width, with the least predicted
    damage where it has several; a site without gets its next wider one, or its widest. Plans of `space.joint` that keep
    the limits; the first is the widest plan there is."""
    widths = {candidate.format.bits for site in space.problem.sites for candidate in site.candidates}
    plans = dict.fromkeys(_uniform(space, width) for width in (math.inf, *sorted(widths, reverse=True)))
    return [point for plan in plans if (point := space.priced(plan)) is not None]


def try_uniform(points: Sequence[PlanPoint], evidence: Evidence, hopeless: float = math.inf) -> None:
    """Evaluate those of the uniform plans that could be the answer.

    All, widest first, where nothing met the budget yet; else those that are cheaper than the cheapest plan that did,
    dearest first, until one misses, or what was measured says that it loses `hopeless` times the budget. That is said
    too often: plans of one format lose down to a tenth of what is predicted of them, as the cheapest of all mixtures is
    in part one of which too little is predicted [measured on an LSTM; on ResNet20 down to a half].
    """
    if evidence.cheapest() is None:
        for point in points:
            evidence.evaluate(point, beyond_samples=True)
    for point in sorted(points, key=lambda point: -point.cost):
        best = evidence.cheapest()
        if best is None or point.cost >= best.cost or point in evidence:
            continue
        damages = np.array([point.damage])
        if evidence.foreseen(damages)[0] > hopeless * max(evidence.max_drop, _SMALLEST):
            return
        if not evidence.evaluate(point, beyond_samples=True) or not evidence.within(point):
            return


def _uniform(space: SearchSpace, width: float) -> Plan:
    joint, sites = space.joint, space.problem.sites
    targets = [_nearest(site, width) for site in sites]
    choices = []
    for group, combinations, merged in zip(joint.groups, joint.combinations, joint.problem.sites, strict=True):
        misses = [
            sum(
                abs(sites[site].candidates[choice].format.bits - targets[site])
                for site, choice in zip(group, row, strict=True)
            )
            for row in combinations.tolist()
        ]
        damages = [candidate.damage for candidate in merged.candidates]
        choices.append(min(range(len(misses)), key=lambda place: (misses[place], damages[place])))
    return Plan(tuple(choices))


def _nearest(site: PlanSite, width: float) -> float:
    """The least width of a site that is not below `width`, or its widest."""
    own = sorted(candidate.format.bits for candidate in site.candidates)
    return next((bits for bits in own if bits >= width), own[-1])

"""The smallest file, to the byte: a limit on the size is judged by it, not by a sum over sites.

A file holds one unpacking function for each width in use, which belongs to no site. So the smallest candidates are not
always the smallest file: one width for all sites may do with fewer bytes than two.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from network.graph import Network
from pipeline.plan_evaluation import file_sizes
from planner.errors import LimitUnreachable
from planner.merge import MergedProblem
from planner.problem import Limits, Plan, Problem, Quantity, amount


def smallest_plans(problem: Problem) -> list[Plan]:
    """Every site with its smallest candidate of all, of each one width, and of each two, as far as it has them."""
    sizes = problem.values(Quantity.SIZE)
    widths = sorted({candidate.format.bits for site in problem.sites for candidate in site.candidates})
    sets = [set(widths), *({width} for width in widths), *(set(pair) for pair in itertools.combinations(widths, 2))]

    def smallest(index: int, among: set[int]) -> int:
        bits = [candidate.format.bits for candidate in problem.sites[index].candidates]
        start = int(problem.offsets[index])
        return min(range(len(bits)), key=lambda choice: (bits[choice] not in among, sizes[start + choice]))

    plans = (Plan(tuple(smallest(index, among) for index in range(len(problem.sites)))) for among in sets)
    return list(dict.fromkeys(plans))


def check_size(
    request: Mapping[str, Any], network: Network, problem: Problem, joint: MergedProblem, limits: Limits
) -> None:
    """The limit on the size must leave the smallest file that keeps the other limits, as far as one is known.

    Args:
        problem: the plans of `joint` stand for its plans.

    Raises:
        LimitUnreachable: it does not; the text names the size of that file.
    """
    if limits.max_size_bytes is None:
        return
    others = replace(limits, max_size_bytes=None)
    plans = smallest_plans(joint.problem)
    kept = joint.problem.within(others, np.array([plan.choices for plan in plans]))
    originals = [joint.original(plan) for plan, keeps in zip(plans, kept, strict=True) if keeps]
    least = np.inf
    for plan in originals:
        least = min(least, float(file_sizes(request, network, problem, [plan])[0]))
        if least <= limits.max_size_bytes:
            return
    if originals:
        raise size_unreachable(limits.max_size_bytes, least)


def size_unreachable(limit: float, least: float) -> LimitUnreachable:
    """What is said of a limit below the smallest file, whose bytes are `least`."""
    return LimitUnreachable(
        f"limits.max_size_bytes is {limit:,.0f}, but the smallest file that weights.bits, layers and the other limits "
        f"allow has {amount(Quantity.SIZE, least)} bytes; raise the limit to that"
    )

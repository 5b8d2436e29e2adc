"""Limits that no plan can keep are refused before anything is slow, with the nearest values that can be kept.

A limit on the size is judged by the smallest file, to the byte, not by a sum over sites: a file holds one unpacking
function for each width in use, which belongs to no site. So the smallest candidates are not always the smallest file:
one width for all sites may do with fewer bytes than two.
"""

from __future__ import annotations

import itertools

import numpy as np

from planner.errors import LimitUnreachable
from planner.integer import solve_integer
from planner.interactions import unreachable
from planner.problem import Limits, Plan, Problem, Quantity, amount, limit_name

_FASTER_TO_LOAD = "formats that load faster, such as int8/channel and int4/channel"


def check_limits(problem: Problem, limits: Limits) -> None:
    """Each limit by itself must leave the cheapest plan, and all together some plan.

    Raises:
        LimitUnreachable: they do not; the text names the least values that can be kept.
    """
    for quantity, limit in limits.items():
        values, base = problem.values(quantity), problem.base(quantity)
        cheapest = base + sum(values[start:stop].min() for start, stop in itertools.pairwise(problem.offsets))
        if limit < cheapest:
            other = _FASTER_TO_LOAD if quantity is Quantity.LOAD else "fewer bits"
            raise LimitUnreachable(
                f"limits.{limit_name(quantity)} is {limit:,}, but the cheapest plan that weights.bits and layers "
                f"allow has {amount(quantity, cheapest)}; raise the limit to that, or allow {other}"
            )
    limited = [quantity for quantity, _ in limits.items()]
    if len(limited) > 1 and solve_integer(problem, limited[0], limits) is None:
        raise unreachable(problem, limits)


def smallest_plans(problem: Problem) -> list[Plan]:
    """Every site with its smallest candidate of all, of each one width, and of each two, as far as it has them."""
    sizes = problem.values(Quantity.SIZE)
    widths: list[float] = sorted({candidate.format.bits for site in problem.sites for candidate in site.candidates})
    sets = [set(widths), *({width} for width in widths), *(set(pair) for pair in itertools.combinations(widths, 2))]

    def smallest(index: int, among: set[float]) -> int:
        bits = [candidate.format.bits for candidate in problem.sites[index].candidates]
        start = int(problem.offsets[index])
        return min(range(len(bits)), key=lambda choice: (bits[choice] not in among, sizes[start + choice]))

    plans = (Plan(tuple(smallest(index, among) for index in range(len(problem.sites)))) for among in sets)
    return list(dict.fromkeys(plans))


def smallest_within(problem: Problem, others: Limits) -> list[Plan]:
    """Plans with the smallest files that keep the `others`, all limits but that on the size, as far as known."""
    plans = smallest_plans(problem)
    kept = problem.within(others, np.array([plan.choices for plan in plans]))
    least = solve_integer(problem, Quantity.SIZE, others)
    within = [plan for plan, keeps in zip(plans, kept, strict=True) if keeps]
    return list(dict.fromkeys([*within, *([] if least is None else [least])]))


def size_unreachable(limit: float, least: float) -> LimitUnreachable:
    """What is said of a limit below the smallest file, whose bytes are `least`."""
    return LimitUnreachable(
        f"limits.max_size_bytes is {limit:,.0f}, but the smallest file that weights.bits, layers and the other limits "
        f"allow has {amount(Quantity.SIZE, least)} bytes; raise the limit to that"
    )

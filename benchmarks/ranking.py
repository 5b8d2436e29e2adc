"""Mixed precision by one ranking of layers, as AIMET's automatic mixed precision publishes it; the baseline to beat.

Phase 1 measures the network with one site in one format and everything else in float, for every site and format, and
ranks them, the least harmful first. Phase 2 begins with the widest format everywhere and goes through the ranking:
each entry that is narrower than what its site has by then narrows it, which gives one list of ever smaller plans (the
"Pareto list"). The smallest plan on the list that keeps the accuracy target is found by binary search, or by
interpolation between what has been measured; accuracy is taken to be monotone along the list. Implemented here from
AIMET's documentation (automatic mixed precision, phases 1 and 2); none of its code is used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from benchmarks.real_network import RealNetwork
from planner.problem import Plan, Problem, Quantity


def one_at_a_time(real: RealNetwork) -> NDArray[np.float64]:
    """Phase 1 of the ranking: [K] signal-to-noise ratios of the outputs with one weight rounded.

    Accuracy itself would leave most candidates tied on so few images.
    """
    reference = real.outputs({}, real.scoring).astype(np.float64)
    ratios = []
    for site in real.network.sites:
        for weight in real.rounded[site.name]:
            outputs = real.outputs({site.weight: weight}, real.scoring)
            ratios.append(np.square(reference).sum() / np.square(outputs - reference).sum())
    return np.array(ratios)


def ranked_plans(problem: Problem, scores: NDArray[np.float64]) -> list[Plan]:
    """The list of phase 2: plans from the widest to the narrowest, each with one site narrower than the one before.

    Args:
        problem: sites whose candidates are ordered by width.
        scores: [K], the measured quality of each candidate by itself, higher is better; of equal ones the one that
            saves more bytes comes first.
    """
    sizes = problem.values(Quantity.SIZE)
    widest = problem.offsets[1:] - 1
    saved = sizes[widest][problem.site_of] - sizes
    current = widest.copy()
    plans = [current - problem.offsets[:-1]]
    for candidate in np.lexsort((-saved, -scores)):
        site = problem.site_of[candidate]
        if candidate < current[site]:
            current[site] = candidate
            plans.append(current - problem.offsets[:-1])
    return [Plan(tuple(choices.tolist())) for choices in plans]


def smallest_within(plans: Sequence[Plan], drop: Callable[[Plan], float], max_drop: float) -> Plan | None:
    """The last plan of a list, from the safest to the smallest, whose measured drop keeps `max_drop`.

    Interpolation between the ends of the bracket, kept a quarter inside, so that it is never slower than bisection
    by much; both assume a drop that grows along the list. None: not even the first plan keeps it.
    """
    low, low_drop = 0, drop(plans[0])
    high, high_drop = len(plans) - 1, drop(plans[-1])
    if low_drop > max_drop:
        return None
    if high_drop <= max_drop:
        return plans[-1]
    while high - low > 1:
        share = (max_drop - low_drop) / max(high_drop - low_drop, 1e-12)
        middle = low + int(np.clip(round(share * (high - low)), (high - low + 3) // 4, (3 * (high - low)) // 4))
        middle = min(max(middle, low + 1), high - 1)
        measured = drop(plans[middle])
        if measured <= max_drop:
            low, low_drop = middle, measured
        else:
            high, high_drop = middle, measured
    return plans[low]

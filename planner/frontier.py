"""The exact frontier of an additive problem, by dynamic programming with dominance and bound pruning.

Three things keep the states (cost and damage of the sites taken so far) few, in this order:

1. Dominance: a state that another beats in both cost and damage goes (Nemhauser and Ullmann, 1969).
2. Bounds: a first pass with few states gives plans, hence an upper bound U on the frontier. The relaxation gives lines
   below it, one per slope. In the segment of slope s, a plan lies `excess` above the line, and the excess is a sum of
   terms >= 0, one per site; a state whose own excess is above the largest `U - line` of the segment cannot lead to
   anything better than what is known there. A state that is useful in no segment goes. The result stays exact.
3. The cap: when the states still exceed it, the cost axis is cut into buckets and each keeps the state closest to the
   hull. The frontier is then no longer exact; how far off it can be is read from the relaxation and returned.

Time and memory grow with sites times kept states.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from planner.dynamic import Band, Points, Table, resolution, run
from planner.errors import NotApplicable, ProblemInvalid
from planner.problem import Problem, Quantity
from planner.relaxation import FloatArray, Relaxation, relax
from planner.results import Frontier, Status, undominated

# states of the first pass: enough for a sharp upper bound, few enough to cost a tenth of the exact pass
_FIRST_STATES = 2_000
# buckets per relative error wanted: neighbours kept in two buckets lie up to two bucket widths apart
_BUCKETS_PER_TOLERANCE = 5.0

# relative bound above which segments of a capped frontier are tried once more, by themselves
_COARSE = 1e-3


def additive_frontier(
    problem: Problem, cost: Quantity = Quantity.SIZE, *, max_states: int = 2**17, tolerance: float = 0.0
) -> Frontier:
    """All plans that no other beats in `cost` and in the sum of the candidates' damages (interactions are left out).

    Exact (status OPTIMAL) unless more than `max_states` states are alive at once; then status BOUNDED with the
    relative bound that the relaxation proves. With `tolerance` above 0, parts of the frontier that are proved to lie
    within it are not refined further.

    Raises:
        ProblemInvalid: `max_states` below 1, `tolerance` outside [0, 1).
        NotApplicable: `cost` is the damage.
    """
    if cost is Quantity.DAMAGE:
        raise NotApplicable("a frontier has the damage on one axis; its cost must be size, bit operations or latency")
    if max_states < 1 or not 0 <= tolerance < 1:
        raise ProblemInvalid(f"expected max_states >= 1 and tolerance in [0, 1), got {max_states} and {tolerance}")
    table = Table.of(problem, cost)
    relaxation = relax(table.costs, table.damages)
    points, exact = _points(table, relaxation, max_states, tolerance)
    return Frontier(
        cost,
        Status.OPTIMAL if exact.all() else Status.BOUNDED,
        points.costs + (table.cheapest + problem.base(cost)),
        points.damages,
        table.original(points.choices),
        float(_distances(points, relaxation)[1][~exact].max(initial=0.0)),
    )


def _points(
    table: Table, relaxation: Relaxation, max_states: int, tolerance: float
) -> tuple[Points, NDArray[np.bool_]]:
    """The frontier, and for each segment of the relaxation whether it is exact there."""
    if not len(relaxation.slopes):
        # no site has a choice: the first candidate of each is the only efficient one
        damage = sum(float(site_damages[0]) for site_damages in table.damages)
        only = np.zeros((1, len(table.damages)), dtype=np.uint8)
        return Points(np.zeros(1), np.array([damage]), only, False), np.ones(0, dtype=bool)
    wanted = _FIRST_STATES
    if tolerance:
        wanted = max(wanted, math.ceil(_BUCKETS_PER_TOLERANCE * float(resolution(relaxation).sum()) / tolerance))
    # the vertices of the relaxation are plans: where nothing better is known, a segment's gap is what it saves
    vertices = Band.of(np.arange(len(relaxation.slopes)), relaxation.drops)
    first = min(wanted, max_states)
    points = run(table, relaxation, vertices, buckets=first, thin_above=min(first, _FIRST_STATES), falling=False)
    exact = np.full(len(relaxation.slopes), not points.thinned)
    # when not even the cap suffices everywhere, where the relaxation says little it may still suffice
    for threshold in (tolerance, max(tolerance, _COARSE)):
        gaps, bounds = _distances(points, relaxation)
        loose = ~exact & (bounds > threshold)
        if not loose.any():
            break
        band = Band.of(np.flatnonzero(loose), gaps[loose])
        refined = run(table, relaxation, band, buckets=max_states, thin_above=max_states, falling=True)
        exact |= loose & (not refined.thinned)
        # an exact pass over every segment has found all that the first one did
        points = refined if loose.all() and not refined.thinned else _merged(points, refined)
    return points, exact


def _distances(points: Points, relaxation: Relaxation) -> tuple[FloatArray, FloatArray]:
    """[J] each: by how much, and by which fraction, the known damage can exceed the relaxation's in each segment.

    Inside a step the staircase of known points is level and the relaxation falls, so they are farthest apart just below
    the ends of steps and of segments.
    """
    costs = np.concatenate([points.costs[1:], relaxation.costs[1:]])
    known = points.damages[np.searchsorted(points.costs, costs, side="left") - 1]
    segments = np.searchsorted(relaxation.costs, costs, side="left") - 1
    segments = np.clip(segments, 0, max(len(relaxation.slopes) - 1, 0))
    least = relaxation.damage_at(costs)
    excess = np.maximum(known - least, 0.0)
    fractions = np.divide(excess, least, out=np.full(len(least), np.inf), where=least > 0)
    fractions[excess == 0] = 0.0
    gaps, bounds = np.zeros((2, len(relaxation.slopes)))
    np.maximum.at(gaps, segments, excess)
    np.maximum.at(bounds, segments, fractions)
    return gaps, bounds


def _merged(first: Points, second: Points) -> Points:
    """The undominated points of two passes."""
    costs = np.concatenate([first.costs, second.costs])
    damages = np.concatenate([first.damages, second.damages])
    kept = undominated(costs, damages)
    choices = np.empty((len(kept), first.choices.shape[1]), dtype=np.uint8, order="F")
    from_first = kept < len(first.costs)
    choices[from_first] = first.choices[kept[from_first]]
    choices[~from_first] = second.choices[kept[~from_first] - len(first.costs)]
    return Points(costs[kept], damages[kept], choices, first.thinned or second.thinned)

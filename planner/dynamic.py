"""Dynamic programming over sites for the additive frontier: one pass, exact, banded or capped.

States are (cost, damage) of the sites taken so far; costs count from the site's cheapest candidate. `planner.frontier`
says how passes are put together and why the result is exact.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from planner.problem import Problem, Quantity
from planner.relaxation import FloatArray, Relaxation
from planner.results import undominated

# costs at which the pruning bound is tabulated per site; it is convex, so interpolation between them only loosens it
_GRID = 96
# groups of segments whose lines are evaluated on that grid
_GROUPS = 128
# states that are tested together before any is extended
_BLOCK = 64
# the finest relative step that buckets near an end of the frontier tell apart
_END = 1e-6
# rounding of sums of thousands of damages, with a wide margin: pruning must never cut what is equal
_ROUNDING = 1e-10


@dataclass(frozen=True, eq=False)
class Table:
    """Efficient candidates of every site: costs above its cheapest, damages, original indices.

    `cheapest` is the cost of the cheapest plan, `order` the sites by falling range of cost.
    """

    costs: list[FloatArray]
    damages: list[FloatArray]
    indices: list[NDArray[np.int64]]
    cheapest: float
    order: NDArray[np.int64]

    @classmethod
    def of(cls, problem: Problem, cost: Quantity) -> Table:
        costs, damages, indices = [], [], []
        cheapest = 0.0
        of_sites = (np.split(problem.values(quantity), problem.offsets[1:-1]) for quantity in (cost, Quantity.DAMAGE))
        for own_costs, own_damages in zip(*of_sites, strict=True):
            kept = undominated(own_costs, own_damages)
            least = float(own_costs[kept[0]])
            costs.append(own_costs[kept] - least)
            damages.append(own_damages[kept])
            indices.append(kept)
            cheapest += least
        order = np.argsort([-site_costs[-1] for site_costs in costs], kind="stable")
        return cls(costs, damages, indices, cheapest, order)

    def original(self, choices: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """[P, S] of original candidate indices from [P, S] of indices into the efficient ones."""
        original = choices.copy(order="K")
        for site, kept in enumerate(self.indices):
            if kept[-1] >= len(kept) or (np.diff(kept) < 0).any():
                original[:, site] = kept.astype(choices.dtype)[choices[:, site]]
        return original


@dataclass(frozen=True, eq=False)
class Band:
    """Where better plans are still wanted: segments of the relaxation, and how far above their line such plans can lie.

    Many segments are taken together in groups; `first`, `last` and `gaps` are [B]: a group's outermost segments, and
    the largest gap in it. A group's lines are then replaced by what is above all of them.
    """

    first: NDArray[np.int64]
    last: NDArray[np.int64]
    gaps: FloatArray

    @classmethod
    def of(cls, segments: NDArray[np.int64], gaps: FloatArray) -> Band:
        """The band of these segments (ascending) with their gaps."""
        size = -(-len(segments) // _GROUPS)
        begins = np.arange(0, len(segments), max(size, 1))
        ends = np.append(begins[1:], len(segments)) - 1
        return cls(segments[begins], segments[ends], np.maximum.reduceat(gaps, begins))


@dataclass(frozen=True, eq=False)
class Points:
    """What a pass found: costs above the cheapest plan's, ascending; damages; choices [P, S] among the efficient."""

    costs: FloatArray
    damages: FloatArray
    choices: NDArray[np.uint8]
    thinned: bool


@dataclass(frozen=True, eq=False)
class _States:
    """Undominated states of some sites, cost ascending; `parents` and `choices` say how each was reached."""

    costs: FloatArray
    damages: FloatArray
    parents: NDArray[np.int32]
    choices: NDArray[np.uint8]

    def take(self, kept: NDArray[np.int64] | NDArray[np.bool_]) -> _States:
        return _States(self.costs[kept], self.damages[kept], self.parents[kept], self.choices[kept])


@dataclass(frozen=True, eq=False)
class _Steps:
    """How each state of some sites was reached."""

    parents: NDArray[np.int32]
    choices: NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class _Hull:
    """The relaxation of the sites taken so far.

    `vertex` [J]: for every segment of the whole relaxation the vertex that is optimal at its slope. `progress`: how
    much of the relative damage range lies before each vertex; equal steps of it are equal relative errors of the whole.
    """

    costs: FloatArray
    damages: FloatArray
    vertex: NDArray[np.int64]
    progress: FloatArray


def resolution(relaxation: Relaxation) -> FloatArray:
    """[J]: the relative change of the whole network's damage along each segment (capped where the damage ends at 0)."""
    middle = (relaxation.damages[1:] + relaxation.damages[:-1]) / 2
    # a keep candidate lets the damage fall to 0, a task loss even lower: relative steps need a floor there
    span = relaxation.damages[0] - relaxation.damages[-1]
    steps: FloatArray = relaxation.drops / np.maximum(middle, 1e-6 * span)
    return steps


def run(table: Table, relaxation: Relaxation, band: Band, *, buckets: int, thin_above: int, falling: bool) -> Points:
    """One pass over all sites, keeping only states inside the band, thinned to `buckets` above `thin_above` states.

    `falling`: sites by falling range of cost. Exact passes want it: the last sites, which multiply the states most,
    then only fill in small steps. Thinned passes want the opposite: the first sites then span a small part of the
    damage, and few buckets.
    """
    order = table.order if falling else table.order[::-1]
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    segment_rank = rank[relaxation.sites]
    steps = resolution(relaxation)
    scale = _Buckets.of(float(steps.sum()), buckets)
    states = _States(np.zeros(1), np.zeros(1), np.zeros(1, np.int32), np.zeros(1, np.uint8))
    history: list[_Steps] = []
    thinned = False
    best = 0.0
    for stage, site in enumerate(order.tolist()):
        best += float(table.damages[site][-1])
        taken = segment_rank <= stage
        hull = _Hull(
            np.append(0.0, np.cumsum(relaxation.runs[taken])),
            # from the small end, where damages can be many decades below the worst
            best + np.append(np.cumsum(relaxation.drops[taken][::-1])[::-1], 0.0),
            np.cumsum(taken),
            np.append(0.0, np.cumsum(steps[taken])),
        )
        states = _extended(states, table.costs[site], table.damages[site], hull, relaxation, band)
        # the last site's states are the frontier itself, no later site multiplies them
        if len(states.costs) > thin_above and stage < len(order) - 1:
            kept = scale.closest(states, hull)
            thinned |= not kept.all()
            states = states.take(kept)
        history.append(_Steps(states.parents, states.choices))  # without the costs and damages of all sites
    return Points(states.costs, states.damages, _traced(history, order), thinned)


@dataclass(frozen=True, slots=True)
class _Buckets:
    """Buckets along the hull's progress: even ones, and near both ends geometrically finer ones.

    Near an end, a site's step can be smaller than an even bucket. The end's own state is on the hull, would win that
    bucket at every site, and the errors would add up in one direction.
    """

    per_progress: float
    per_decade: float

    @classmethod
    def of(cls, progress: float, count: int) -> _Buckets:
        """`count` buckets over this much progress, a quarter of them for the ends."""
        return cls(0.75 * count / max(progress, _END), 0.125 * count / math.log1p(progress / _END))

    def closest(self, states: _States, hull: _Hull) -> NDArray[np.bool_]:
        """Marks the states closest to the hull, one in each bucket."""
        progress = np.interp(states.costs, hull.costs, hull.progress)
        ends = np.log1p(progress / _END) - np.log1p((hull.progress[-1] - progress) / _END)
        bucket = np.floor(self.per_progress * progress + self.per_decade * ends)
        begins = np.flatnonzero(np.append(True, bucket[1:] != bucket[:-1]))
        slack = states.damages - np.interp(states.costs, hull.costs, hull.damages)
        least = np.minimum.reduceat(slack, begins)
        closest = slack <= np.repeat(least, np.diff(np.append(begins, len(bucket))))
        # the two ends of the frontier are always reached
        closest[[0, -1]] = True
        return closest


def _extended(
    states: _States, costs: FloatArray, damages: FloatArray, hull: _Hull, relaxation: Relaxation, band: Band
) -> _States:
    """Every state with every candidate of the next site, without those that are dominated or outside the band."""
    grid, ceiling = _ceiling(hull, relaxation, band)
    blocks = _inside(states, costs, damages, grid, ceiling)
    new_costs = np.concatenate([states.costs[block] + costs[choice] for choice, block in blocks])
    new_damages = np.concatenate([states.damages[block] + damages[choice] for choice, block in blocks])
    useful = np.flatnonzero(new_damages <= np.interp(new_costs, grid, ceiling))
    new_costs, new_damages = new_costs[useful], new_damages[useful]
    # stable: the candidates' blocks are sorted already, which timsort merges in linear time
    order = np.argsort(new_costs, kind="stable")
    new_costs, new_damages = new_costs[order], new_damages[order]
    keep = np.ones(len(order), dtype=bool)
    keep[1:] = new_damages[1:] < np.minimum.accumulate(new_damages)[:-1]
    kept = np.flatnonzero(keep)
    # of equal costs only the last, which has the least damage
    kept = kept[np.append(new_costs[kept[1:]] > new_costs[kept[:-1]], True)]
    origin = useful[order[kept]]
    ends = np.cumsum([block.stop - block.start for _, block in blocks])
    block_of = np.searchsorted(ends, origin, side="right")
    shift = np.array([block.stop for _, block in blocks]) - ends
    return _States(
        new_costs[kept],
        new_damages[kept],
        (origin + shift[block_of]).astype(np.int32),
        np.array([choice for choice, _ in blocks], dtype=np.uint8)[block_of],
    )


def _inside(
    states: _States, costs: FloatArray, damages: FloatArray, grid: FloatArray, ceiling: FloatArray
) -> list[tuple[int, slice]]:
    """For every candidate the range of states that it may extend to something useful; candidates without any left out.

    Tested by blocks: their least cost with their least damage, which is below what every state in them can reach.
    """
    begins = np.arange(0, len(states.costs), _BLOCK)
    ends = np.append(begins[1:], len(states.costs))
    blocks = []
    for choice, (cost, damage) in enumerate(zip(costs, damages, strict=True)):
        limit = np.interp(states.costs[begins] + cost, grid, ceiling)
        useful = np.flatnonzero(states.damages[ends - 1] + damage <= limit)
        if len(useful):
            blocks.append((choice, slice(int(begins[useful[0]]), int(ends[useful[-1]]))))
    return blocks


def _ceiling(hull: _Hull, relaxation: Relaxation, band: Band) -> tuple[FloatArray, FloatArray]:
    """The damage above which a state is useless, tabulated along the cost.

    In the segment with slope s, a state is useful when `damage + s * cost` is at most the hull's optimum at that slope
    plus the segment's gap; useful for any segment: below the upper envelope of these lines. The lines of a group touch
    the hull between those of its first and its last segment, so these two and the hull itself are above all of them.
    """
    tabulated = np.unique(np.linspace(0, len(hull.costs) - 1, _GRID).astype(np.int64))
    grid, hull_damages = hull.costs[tabulated], hull.damages[tabulated]
    ceiling = np.full(len(grid), -np.inf)
    for outermost in (band.first, band.last):
        slopes = relaxation.slopes[outermost]
        vertex = hull.vertex[outermost]
        # through the vertex: near it nothing cancels, far from it the line is useless anyway
        heights = hull.damages[vertex] + slopes * hull.costs[vertex] + band.gaps
        ceiling = np.maximum(ceiling, (heights - np.multiply.outer(grid, slopes)).max(axis=1))
    begin, end = hull.costs[hull.vertex[band.first]], hull.costs[hull.vertex[band.last]]
    group = np.minimum(np.searchsorted(end, grid, side="left"), len(end) - 1)
    inner = (begin[group] < grid) & (grid < end[group])
    ceiling = np.where(inner, np.maximum(ceiling, hull_damages + band.gaps[group]), ceiling)
    rounding = _ROUNDING * np.abs(ceiling) + np.finfo(float).eps * len(relaxation.slopes) * np.abs(hull.damages).max()
    return grid, ceiling + rounding


def _traced(history: list[_Steps], order: NDArray[np.int64]) -> NDArray[np.uint8]:
    """[P, S]: the choices that led to every state of the last stage."""
    current: NDArray[np.signedinteger] = np.arange(len(history[-1].choices))
    choices = np.empty((len(current), len(order)), dtype=np.uint8, order="F")
    for stage in range(len(order) - 1, -1, -1):
        choices[:, order[stage]] = history[stage].choices[current]
        current = history[stage].parents[current]
    return choices

"""Tabu search on `x' G x` within limits on costs: many walks at once, each step one change of one site.

With p the candidate that a site has now and q another one of it, changing p to q moves `x' G x` by

    delta_q = 2 ((Gx)_q - (Gx)_p) + G_qq - 2 G_qp + G_pp.

A walk always makes the change with the least `delta_q + sum_l weight_l * excess_l(q)`, even when nothing improves, and
does not take a candidate back for a few steps (Glover 1989; for binary quadratic programs Glover, Kochenberger and
Alidaee 1998). `excess_l` is by how much limit l would be exceeded. Its weight falls while the limit is kept and
rises while it is not, so that a walk keeps crossing its limits (strategic oscillation): an exchange of two sites that
no single change can begin from within the limits is made of two steps.

After a choice changes from p to n, every other delta moves by `h_q - h_p(q)` with h = 2 (G_n - G_p) and p(q) the
current candidate of q's site: O(K) for a step, and the same few array operations for all walks together.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from planner.descent import Descent, FloatArray, IndexArray

# steps between two generations
_GENERATION = 100
# sites of a child that are set at random
_MUTATED_SITES = 2
# how many limits further on the second parent of a child may come from
_NEIGHBOURS = 4
# steps for which a candidate that was left is barred: evenly from half of this to one and a half
_TENURE = 20
# by which factor the weight of a limit changes with every step, and how far it may move from where it began
_WEIGHT_RATE = 1.03
_WEIGHT_RANGE = 1e3
# a plan counts as better only beyond the rounding of the sums that judge it
_ROUNDING = 1e-10


class Walks:
    """C walks over plans, each within its own limits.

    `best` [C, S] and `least` [C]: the plan with the least damage that each has met within its limits since it was
    last placed, and that damage; infinite where it met none.
    """

    def __init__(self, descent: Descent, plans: IndexArray, upper: FloatArray) -> None:
        """Walks from `plans` [C, S] of flat candidate indices, which may exceed the limits `upper` [C, L]."""
        count, candidates = len(plans), len(descent.site_of)
        self._descent = descent
        self._upper = upper
        self._rows = np.arange(count)
        self._first = self._rows * candidates
        self._plans = np.empty_like(plans)
        self._damages = np.empty(count)
        self._slack = np.empty((count, upper.shape[1]))
        self._delta = np.empty((count, candidates))
        self._rise = np.empty((upper.shape[1], count, candidates))
        # 0 or infinity: what a walk has already, or left only just now
        self._barred = np.zeros((count, candidates))
        self._scratch = np.empty((2, count, candidates))
        self._tenure = max(1, min(_TENURE, (candidates - plans.shape[1]) // 4))
        self._returning: list[list[NDArray[np.int64]]] = [[] for _ in range(2 * self._tenure + 1)]
        self._step = 0
        self.best = plans.copy()
        self.least = np.full(count, np.inf)
        self.place(self._rows, plans)
        costs = descent.costs[:, plans].sum(axis=2).T
        self._weights = self._damages[:, None] / np.maximum(costs, np.finfo(float).tiny)
        self._lowest, self._highest = self._weights / _WEIGHT_RANGE, self._weights * _WEIGHT_RANGE

    def place(self, rows: IndexArray, plans: IndexArray) -> None:
        """Let these walks go on from `plans`, and forget what they have found."""
        descent = self._descent
        diagonal = descent.interactions.diagonal()
        everything = np.arange(len(diagonal))
        for row, plan in zip(rows, plans, strict=True):
            current = plan[descent.site_of]
            gradient = 2 * descent.interactions[plan].sum(axis=0)
            self._delta[row] = gradient - gradient[current] + diagonal + diagonal[current]
            self._delta[row] -= 2 * descent.interactions[everything, current]
            self._damages[row] = gradient[plan].sum() / 2
            self._rise[:, row] = descent.costs - descent.costs[:, current]
            self._slack[row] = descent.slack(plan, self._upper[row])
            self._barred[row] = 0
            self._barred[row, plan] = np.inf
        self._plans[rows] = plans
        self.best[rows] = plans
        kept = (self._slack[rows] >= 0).all(axis=1)
        self.least[rows] = np.where(kept, self._damages[rows], np.inf)

    def step(self, generator: np.random.Generator) -> None:
        """One change in every walk."""
        score, excess = self._scratch
        np.add(self._delta, self._barred, out=score)
        for limit, rise in enumerate(self._rise):
            np.subtract(rise, self._slack[:, limit, None], out=excess)
            np.maximum(excess, 0.0, out=excess)
            excess *= self._weights[:, limit, None]
            score += excess
        new = score.argmin(axis=1)
        site = self._descent.site_of[new]
        old = self._plans[self._rows, site]
        self._bar(new, old, int(generator.integers(self._tenure // 2, 3 * self._tenure // 2, endpoint=True)))
        self._change(new, old, site)
        kept = self._slack >= 0
        self._weights *= np.where(kept, 1 / _WEIGHT_RATE, _WEIGHT_RATE)
        np.clip(self._weights, self._lowest, self._highest, out=self._weights)
        better = np.flatnonzero(kept.all(axis=1) & (self._damages < self.least * (1 - _ROUNDING)))
        self.least[better] = self._damages[better]
        self.best[better] = self._plans[better]

    def _bar(self, new: IndexArray, old: IndexArray, steps: int) -> None:
        """Bar what is chosen now, and for so many steps what was chosen before; free what has been barred so long."""
        barred = self._barred.ravel()
        barred[self._first + new] = np.inf
        self._step += 1
        self._returning[(self._step + steps) % len(self._returning)].append(self._first + old)
        due = self._returning[self._step % len(self._returning)]
        for index in due:
            barred[index] = 0.0
        if due:
            # what came back in the meantime (the walk was placed anew, or had nothing else left) stays
            barred[self._first[:, None] + self._plans] = np.inf
            barred[self._first + new] = np.inf
            due.clear()

    def _change(self, new: IndexArray, old: IndexArray, site: IndexArray) -> None:
        """Make the changes, and bring deltas, damages and costs up to date."""
        descent = self._descent
        moved = self._delta[self._rows, new]
        own, row = self._own_candidates(site)
        # as seen from the new candidate, the others of its site lie where they lay before
        within_site = self._delta.ravel()[own] - moved[row]
        step, other = self._scratch
        np.take(descent.interactions, new, axis=0, out=step, mode="clip")
        np.take(descent.interactions, old, axis=0, out=other, mode="clip")
        step -= other
        step *= 2
        self._delta += step
        self._delta -= step[self._rows[:, None], self._plans].take(descent.site_of, axis=1)
        self._delta.ravel()[own] = within_site
        for rise, costs in zip(self._rise, descent.costs, strict=True):
            rise.ravel()[own] -= (costs[new] - costs[old])[row]
        self._damages += moved
        self._slack -= (descent.costs[:, new] - descent.costs[:, old]).T
        self._plans[self._rows, site] = new

    def _own_candidates(self, site: IndexArray) -> tuple[IndexArray, IndexArray]:
        """All candidates of each walk's `site`, as flat indices into [C, K], and the walk of each."""
        begin, end = self._descent.offsets[site], self._descent.offsets[site + 1]
        lengths = end - begin
        row = np.repeat(self._rows, lengths)
        ends = np.cumsum(lengths)
        return np.arange(ends[-1]) + (self._first + begin - ends + lengths)[row], row


def tabu_frontier(
    descent: Descent, starts: IndexArray, uppers: FloatArray, steps: int, generator: np.random.Generator
) -> IndexArray:
    """[C, S]: for each row of limits `uppers` [C, L], rising in the first, the best plan that walks find.

    One walk for each row, from `starts` [C, S], which keep their limits. After every 100 steps each begins again at a
    child of the best plans for its own limits and for neighbouring ones.
    """
    walks = Walks(descent, starts, uppers)
    best, least = starts.copy(), walks.least.copy()
    rows = np.arange(len(starts))
    for step in range(1, steps + 1):
        walks.step(generator)
        if step % _GENERATION and step < steps:
            continue
        better = walks.least < least
        best[better], least[better] = walks.best[better], walks.least[better]
        others = np.clip(rows + generator.integers(-_NEIGHBOURS, _NEIGHBOURS, len(rows), endpoint=True), 0, rows[-1])
        children = [child(descent, best[[row, other]], generator) for row, other in zip(rows, others, strict=True)]
        walks.place(rows, np.array(children))
    return best


def child(descent: Descent, plans: IndexArray, generator: np.random.Generator) -> IndexArray:
    """[S]: sites chosen like one of two of the `plans` [P, S], and a few at random."""
    first, second = generator.choice(len(plans), 2, replace=False)
    mixed = np.where(generator.random(plans.shape[1]) < 0.5, plans[first], plans[second])
    return descent.kicked(mixed, _MUTATED_SITES, generator)

"""Pairwise exchange descent on `x' G x` within limits on costs.

With p the candidate that a site has now and q another one of it, changing p to q moves `x' G x` by

    delta_q = 2 ((Gx)_q - (Gx)_p) + G_qq - 2 G_qp + G_pp,

and two such changes, to q and s, by `delta_q + delta_s + 2 B_qs` with
`B_qs = G_qs - G_q,p(s) - G_p(q),s + G_p(q),p(s)`, where p(q) is the current candidate of q's site. A step makes the
best of all pairs of changes that keeps the limits; one change alone is a pair whose other half changes nothing.
G x follows each step in O(K).

Not every step looks at all K x K pairs. In a pair that lowers the damage, one change alone usually does little harm;
so the `_ROWS` changes with the least delta are paired with all others first, and all pairs are judged only when these
offer nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from planner.errors import NotApplicable
from planner.problem import Problem, Quantity

FloatArray = NDArray[np.float64]
IndexArray = NDArray[np.int64]

# changes that are paired with all others at every step
_ROWS = 24
# rows of all pairs that are judged together: with each, some arrays as long as there are candidates
_ROWS_AT_ONCE = 256
# a step must lower the damage by more than the rounding of the sums that judge it
_ROUNDING = 1e-10


@dataclass(frozen=True, eq=False)
class Descent:
    """The problem as arrays. Plans are [S] of flat candidate indices, limits [L] for the costs [L, K].

    `interactions` is G of the problem itself, no copy: rows of it are doubled where a formula needs them.
    """

    interactions: FloatArray
    costs: FloatArray
    offsets: IndexArray
    site_of: IndexArray

    @classmethod
    def of(cls, problem: Problem, quantities: Sequence[Quantity]) -> Descent:
        """The descent of this problem with limits on these quantities.

        Raises:
            NotApplicable: the problem has no interactions.
        """
        if problem.interactions is None:
            raise NotApplicable("the problem has no interactions; use the additive frontier or the integer program")
        count = len(problem.interactions)
        costs = np.array([problem.values(quantity) for quantity in quantities]).reshape(len(quantities), count)
        return cls(problem.interactions, costs, problem.offsets, problem.site_of)

    def slack(self, plan: IndexArray, upper: FloatArray) -> FloatArray:
        """[L]: what is left of every limit."""
        return np.asarray(upper - self.costs[:, plan].sum(axis=1))

    def improved(self, plan: IndexArray, upper: FloatArray, complete: bool = True) -> tuple[IndexArray, float]:
        """A plan within the limits that no exchange improves, and its damage; `plan` must be within the limits.

        Unless `complete`, it has been compared with the most promising exchanges only.
        """
        plan = plan.copy()
        chosen = 2 * self.interactions[:, plan]
        gradient = chosen.sum(axis=1)
        damage = float(gradient[plan].sum()) / 2
        slack = self.slack(plan, upper)
        some = min(_ROWS, len(gradient))
        while True:
            current = plan[self.site_of]
            delta = self._deltas(current, chosen, gradient)
            increase = self.costs - self.costs[:, current]
            least = -_ROUNDING * abs(damage)
            # a candidate that is chosen already stands for no change: one of them is enough
            rank = delta.copy()
            rank[plan[1:]] = np.inf
            rows = np.argpartition(rank, some - 1)[:some]
            gain, first, second = self._best(rows, current, chosen, delta, increase, slack)
            if gain >= least and complete:
                gain, first, second = self._best_of_all(current, chosen, delta, increase, slack)
            if gain >= least:
                return plan, damage
            for new in (first, second):
                old, site = current[new], self.site_of[new]
                if new != old:
                    gradient += 2 * self.interactions[new]
                    gradient -= 2 * self.interactions[old]
                    chosen[:, site] = 2 * self.interactions[new]
                    slack -= self.costs[:, new] - self.costs[:, old]
                    plan[site] = new
            damage += gain

    def _deltas(self, current: IndexArray, chosen: FloatArray, gradient: FloatArray) -> FloatArray:
        """[K]: how far each change alone moves the damage. `chosen` [K, S] and `gradient` [K]: 2 G of the plan."""
        diagonal = 2 * self.interactions.diagonal()
        delta = gradient - gradient[current]
        delta += (diagonal + diagonal[current]) / 2
        delta -= chosen[np.arange(len(delta)), self.site_of]
        return delta

    def _best_of_all(
        self, current: IndexArray, chosen: FloatArray, delta: FloatArray, increase: FloatArray, slack: FloatArray
    ) -> tuple[float, int, int]:
        """`_best` of all pairs, some rows of them at a time."""
        every = np.arange(len(delta))
        blocks = (every[start : start + _ROWS_AT_ONCE] for start in range(0, len(every), _ROWS_AT_ONCE))
        results = (self._best(rows, current, chosen, delta, increase, slack) for rows in blocks)
        return min(results, key=lambda result: result[0])

    def _best(
        self,
        rows: IndexArray,
        current: IndexArray,
        chosen: FloatArray,
        delta: FloatArray,
        increase: FloatArray,
        slack: FloatArray,
    ) -> tuple[float, int, int]:
        """The pair of changes, one of them among `rows`, that moves the damage down most, and by how much."""
        before = current[rows]
        change = (chosen[before] - chosen[rows] + delta[rows, None]).take(self.site_of, axis=1)
        change += 2 * self.interactions[rows]
        change -= 2 * self.interactions[before]
        change += delta
        # a site changes once; with its own current candidate as the other half, the change stands alone
        np.putmask(change, self.site_of[rows][:, None] == self.site_of, np.inf)
        change[np.arange(len(rows)), before] = delta[rows]
        for rise, left in zip(increase, slack, strict=True):
            np.putmask(change, rise > (left - rise[rows])[:, None], np.inf)
        row, second = divmod(int(change.argmin()), len(delta))
        return float(change[row, second]), int(rows[row]), second

    def kicked(self, plan: IndexArray, sites: int, generator: np.random.Generator) -> IndexArray:
        """The plan with this many random sites set to a random candidate."""
        plan = plan.copy()
        chosen = generator.choice(len(plan), min(sites, len(plan)), replace=False)
        plan[chosen] = generator.integers(self.offsets[chosen], self.offsets[chosen + 1])
        return plan

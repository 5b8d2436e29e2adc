"""Accuracy-guided search: the cheapest plan of a frontier that keeps the budget, by few real evaluations.

Bisection along the frontier, guided by what has been measured (after arXiv 2306.04879, which bisects along an order of
layers). After every evaluation a monotone map from predicted damage to measured drop is fitted by isotonic regression;
the next probe is the cheapest plan that the map expects to meet the budget, kept inside the bracket of what is known.
When the bracket has closed, the neighbours that the noise may have misjudged are probed too.

Two things that measurements on a thousand samples do to a search, and what is done about them:

1. Accuracy is not monotone along a frontier, so every evaluated plan is kept, and any of them may be the answer.
2. The cheapest of several plans that *seem* to meet a budget is likely one that was lucky (the winner's curse). A plan
   therefore counts as meeting the budget only if its own measurement does *and* the fitted map does at its damage: its
   neighbours have to vouch for it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

from planner.errors import ProblemInvalid
from planner.problem import Plan

MOST_EVALUATIONS = 12
# probes beside the answer once the bracket has closed, nearest first: cheaper plans, then dearer ones
_NEIGHBOURS = (-1, 1, -2)


class SearchStatus(StrEnum):
    """How the search ended."""

    MET = "met"
    NOT_MET = "not_met"
    DEADLINE = "deadline"
    """The time was up before any plan met the budget."""


@dataclass(frozen=True, slots=True)
class FrontierPoint:
    """One plan of the frontier, with its cost and its predicted damage."""

    plan: Plan
    cost: float
    damage: float


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What was measured of a plan: its drop (larger is worse), the drop's standard error, samples and file size."""

    drop: float
    stderr: float
    samples: int
    size_bytes: int

    def __post_init__(self) -> None:
        if not math.isfinite(self.drop):
            raise ProblemInvalid(f"the measured drop of a plan must be finite, got {self.drop}")


@dataclass(frozen=True, slots=True)
class EvaluatedPlan:
    """A point of the frontier with its evaluation; `fitted_drop` is the monotone map's value at its damage."""

    index: int
    point: FrontierPoint
    evaluation: Evaluation
    fitted_drop: float
    meets: bool


@dataclass(frozen=True, slots=True)
class SearchResult:
    """The outcome: `chosen` is the cheapest plan that meets the budget, or else the best effort.

    `evaluated` holds every evaluated plan, cost ascending; `least_drop` is the smallest drop among them.
    """

    status: SearchStatus
    chosen: EvaluatedPlan
    evaluated: tuple[EvaluatedPlan, ...]

    @property
    def least_drop(self) -> float:
        return min(plan.evaluation.drop for plan in self.evaluated)


def search_frontier(
    points: Sequence[FrontierPoint],
    evaluate: Callable[[FrontierPoint], Evaluation],
    max_drop: float,
    *,
    safety: float = 0.0,
    max_evaluations: int = MOST_EVALUATIONS,
    expired: Callable[[], bool] = lambda: False,
) -> SearchResult:
    """The cheapest plan among `points` whose drop is at most `max_drop`.

    Args:
        points: cost strictly ascending, damage strictly descending.
        evaluate: measures one plan; called at most once for each.
        max_drop: the budget.
        safety: standard errors that are added to a drop before it is compared with the budget.
        max_evaluations: at least 1.
        expired: asked before every evaluation but the first; True ends the search.

    Raises:
        ProblemInvalid: no points, points out of order, or `max_evaluations` below 1.
    """
    _check(points, max_evaluations)
    search = _Search(points, max_drop, safety)
    stopped = False
    while len(search.known) < max_evaluations:
        index = search.next_probe()
        if index is None:
            break
        if search.known and expired():
            stopped = True
            break
        search.known[index] = evaluate(points[index])
    return search.result(stopped)


class _Search:
    """What is known so far; indices into the points."""

    def __init__(self, points: Sequence[FrontierPoint], max_drop: float, safety: float) -> None:
        self._points = points
        self._max_drop = max_drop
        self._safety = safety
        self.known: dict[int, Evaluation] = {}

    def next_probe(self) -> int | None:
        """The plan to evaluate next; None when nothing is left to learn."""
        last = len(self._points) - 1
        if not self.known:
            return last // 2
        meeting = sorted(index for index in self.known if self._meets(index))
        if not meeting:
            dearest = max(self.known)
            return None if dearest == last else self._within(dearest + 1, last)
        best = meeting[0]
        below = [index for index in self.known if index < best]
        cheaper = max(below) + 1 if below else 0
        if cheaper < best:
            return self._within(cheaper, best - 1)
        for step in _NEIGHBOURS:
            if 0 <= best + step <= last and best + step not in self.known:
                return best + step
        return None

    def _within(self, low: int, high: int) -> int:
        """The cheapest of `low` to `high` that the map expects to meet, but a quarter inside the bracket."""
        expected = self._fitted(np.array([point.damage for point in self._points[low : high + 1]]))
        meeting = np.flatnonzero(expected <= self._max_drop)
        guess = low + int(meeting[0]) if len(meeting) else high
        margin = (high - low) // 4
        return min(max(guess, low + margin), high - margin)

    def _value(self, evaluation: Evaluation) -> float:
        return evaluation.drop + (self._safety * evaluation.stderr if self._safety else 0.0)

    def _fitted(self, damages: NDArray[np.float64]) -> NDArray[np.float64]:
        """The monotone map from predicted damage to drop at `damages`; no damage is no drop."""
        order = sorted(self.known, reverse=True)  # damage ascending
        known = np.array([self._points[index].damage for index in order])
        drops = np.array([self._value(self.known[index]) for index in order])
        errors = np.array([self.known[index].stderr for index in order])
        usable = np.isfinite(errors) & (errors > 0)
        weights = 1 / np.square(np.where(usable, errors, np.median(errors[usable]) if usable.any() else 1.0))
        fitted = isotonic_regression(drops, weights=weights).x
        at_no_damage = min(0.0, float(fitted[0]))
        return np.asarray(np.interp(damages, np.concatenate([[0.0], known]), np.concatenate([[at_no_damage], fitted])))

    def _meets(self, index: int) -> bool:
        fitted = self._fitted(np.array([self._points[index].damage]))[0]
        return self._value(self.known[index]) <= self._max_drop and bool(fitted <= self._max_drop + 1e-12)

    def result(self, stopped: bool) -> SearchResult:
        indices = sorted(self.known)
        fitted = self._fitted(np.array([self._points[index].damage for index in indices]))
        evaluated = tuple(
            EvaluatedPlan(index, self._points[index], self.known[index], float(drop), self._meets(index))
            for index, drop in zip(indices, fitted, strict=True)
        )
        meeting = [plan for plan in evaluated if plan.meets]
        if meeting:
            return SearchResult(SearchStatus.MET, meeting[0], evaluated)
        best = min(evaluated, key=lambda plan: (self._value(plan.evaluation), plan.point.cost))
        return SearchResult(SearchStatus.DEADLINE if stopped else SearchStatus.NOT_MET, best, evaluated)


def _check(points: Sequence[FrontierPoint], max_evaluations: int) -> None:
    if not points or max_evaluations < 1:
        raise ProblemInvalid(f"a search needs points and evaluations, got {len(points)} and {max_evaluations}")
    for before, after in itertools.pairwise(points):
        if not (before.cost < after.cost and before.damage > after.damage):
            raise ProblemInvalid("the points of a frontier must have ascending costs and descending damages")

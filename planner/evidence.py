"""What a search has measured so far, and what it concludes from that; every search method adds to the same evidence.

Two things that measurements on a thousand samples do to a search, and what is done about them:

1. Accuracy is not monotone along a frontier, so every evaluated plan is kept, and any of them may be the answer.
2. The cheapest of several plans that *seem* to meet a budget is likely one that was lucky (the winner's curse). Where
   it is known what the drop would be without the luck of the labels (`Evaluation.expected_drop`), that counts: that
   luck is the same for all plans, so that no neighbour sees it. Two standard errors are added to it: one is what the
   least of a few equal plans seems better by, the other is for the samples, which all plans share. The drop by the
   labels counts where it contradicts, by two standard errors of its own. Where nothing but that is known, a plan meets
   the budget only if its own measurement does *and* the fitted map does at its damage: its neighbours have to vouch
   for it.

The map leads from predicted damage to measured drop. It is monotone, fitted by isotonic regression with the weights
1 / stderr^2 after every evaluation, and joined linearly between the evaluated plans.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

from planner.errors import ProblemInvalid
from planner.problem import Plan

MOST_EVALUATIONS = 12.0
CAUTION = 2.0
"""Standard errors [ResNet20: without, the plan for one point lost 1.24 of other images; with one, 0.95 and 1.23]."""
# what rounding may move a drop past the budget by
_ROUNDING = 1e-12


def cautious(expected_drop: float, stderr: float) -> float:
    """What an expected drop counts as."""
    return expected_drop + CAUTION * stderr


class SearchStatus(StrEnum):
    """How the search ended."""

    MET = "met"
    NOT_MET = "not_met"
    DEADLINE = "deadline"
    """The time was up before any plan met the budget."""


@dataclass(frozen=True, slots=True)
class PlanPoint:
    """One plan with its cost and its predicted damage."""

    plan: Plan
    cost: float
    damage: float


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What was measured of a plan: its drop (larger is worse), the drop's standard error, samples and file size.

    `fraction` of the search samples were read. `within` answers whether the drop on all of them meets the budget: set
    by an evaluation that stopped because it was certain. One that read everything leaves it None, and `drop` answers.
    One that read a part and has no answer was cut short by the deadline. `expected_drop` is what the drop would be
    without the luck of the labels, where that is known, and `expected_stderr` its standard error.
    """

    drop: float
    stderr: float
    samples: int
    size_bytes: int
    fraction: float = 1.0
    within: bool | None = None
    expected_drop: float | None = None
    expected_stderr: float = 0.0

    def __post_init__(self) -> None:
        if not math.isfinite(self.drop):
            raise ProblemInvalid(f"the measured drop of a plan must be finite, got {self.drop}")
        if not 0 < self.fraction <= 1:
            raise ProblemInvalid(f"the fraction of samples must be above 0 and at most 1, got {self.fraction}")

    @property
    def cut_short(self) -> bool:
        return self.fraction < 1 and self.within is None

    @property
    def counted_drop(self) -> float:
        """What is expected, with caution, or what the labels say for certain where that is more; else the drop."""
        if self.expected_drop is None:
            return self.drop
        certain = self.drop - CAUTION * self.stderr if math.isfinite(self.stderr) else self.drop
        return max(certain, self.cautious_drop)

    @property
    def cautious_drop(self) -> float:
        """`expected_drop` and `CAUTION` standard errors; minus infinity where that is not known."""
        return -math.inf if self.expected_drop is None else cautious(self.expected_drop, self.expected_stderr)


@dataclass(frozen=True, slots=True)
class EvaluatedPlan:
    """A plan with its evaluation; `fitted_drop` is the monotone map's value at its damage."""

    point: PlanPoint
    evaluation: Evaluation
    fitted_drop: float
    meets: bool


@dataclass(frozen=True, slots=True)
class SearchResult:
    """The outcome: `chosen` is the cheapest plan that meets the budget, or else the best effort.

    `evaluated` holds every evaluated plan, cost ascending; `least_drop` is the smallest drop of those that read every
    sample, if there are any; `full_evaluations` is the sum of the fractions of samples that all of them read.
    """

    status: SearchStatus
    chosen: EvaluatedPlan
    evaluated: tuple[EvaluatedPlan, ...]

    @property
    def least_drop(self) -> float:
        return min((plan.evaluation.fraction < 1, plan.evaluation.drop) for plan in self.evaluated)[1]

    @property
    def full_evaluations(self) -> float:
        return sum(plan.evaluation.fraction for plan in self.evaluated)


# `evaluate(point, to_the_end)` measures one plan; unless `to_the_end`, it may stop when it is certain of the answer
Evaluate = Callable[[PlanPoint, bool], Evaluation]


class Evidence:
    """Evaluates plans, each once, while samples and time last, and judges them by all that was measured.

    Args:
        evaluate: measures one plan.
        max_drop: the budget.
        safety: standard errors that are added to a drop before it is compared with the budget.
        max_evaluations: full evaluations' worth of samples, at least 1, may be infinite; an evaluation counts its
            fraction.
        expired: called before every evaluation but the first; True ends the search.

    Raises:
        ProblemInvalid: `max_evaluations` below 1.
    """

    def __init__(
        self,
        evaluate: Evaluate,
        max_drop: float,
        *,
        safety: float = 0.0,
        max_evaluations: float = MOST_EVALUATIONS,
        expired: Callable[[], bool] = lambda: False,
    ) -> None:
        if not max_evaluations >= 1:
            raise ProblemInvalid(f"a search needs at least 1 evaluation, got {max_evaluations}")
        self.max_drop = max_drop
        self._evaluate = evaluate
        self.safety = safety
        self._max_evaluations = max_evaluations
        self._expired = expired
        self._known: dict[PlanPoint, Evaluation] = {}
        self._out_of_time = False

    def __contains__(self, point: PlanPoint) -> bool:
        return point in self._known

    def knows(self, plan: Plan) -> bool:
        """Whether the plan was evaluated, whatever damage was predicted of it then."""
        return any(point.plan == plan for point in self._known)

    @property
    def largest_damage(self) -> float | None:
        """The largest predicted damage that was measured; None before anything was."""
        return max((point.damage for point in self._known), default=None)

    def evaluate(self, point: PlanPoint, *, to_the_end: bool = False, beyond_samples: bool = False) -> bool:
        """Measure `point` unless it is known; False, and nothing is measured, once samples or time are used up.

        `beyond_samples`: a last resort, for which time counts alone.
        """
        if point in self._known:
            return True
        spent = sum(evaluation.fraction for evaluation in self._known.values())
        self._out_of_time = self._out_of_time or bool(self._known and self._expired())
        if self._out_of_time or (not beyond_samples and spent + 1 > self._max_evaluations + _ROUNDING):
            return False
        self._known[point] = self._evaluate(point, to_the_end)
        self._out_of_time = self._known[point].cut_short
        return not self._out_of_time

    def expected(self, damages: NDArray[np.float64]) -> NDArray[np.float64]:
        """[n]: the monotone map at `damages` [n], safety included; no damage is no drop. Needs an evaluation."""
        known = sorted(self._known, key=lambda point: point.damage)
        drops = np.array([self._value(self._known[point]) for point in known])
        errors = np.array([self._known[point].stderr for point in known])
        usable = np.isfinite(errors) & (errors > 0)
        weights = 1 / np.square(np.where(usable, errors, np.median(errors[usable]) if usable.any() else 1.0))
        fitted = isotonic_regression(drops, weights=weights).x
        # a plan without damage comes first, and a gain at small damage is carried down to it
        at = np.concatenate([[min(0.0, known[0].damage)], [point.damage for point in known]])
        return np.asarray(np.interp(damages, at, np.concatenate([[min(0.0, float(fitted[0]))], fitted])))

    def foreseen(self, damages: NDArray[np.float64]) -> NDArray[np.float64]:
        """`expected`, and beyond the largest damage that was measured in proportion to it: what to try, not what to
        believe."""
        largest = self.largest_damage or 0.0
        beyond = damages / largest if largest > 0 else np.ones_like(damages)
        expected = self.expected(damages)
        return np.asarray(np.where(expected > 0, expected * np.maximum(beyond, 1.0), expected))

    def within(self, point: PlanPoint) -> bool:
        """Whether the plan's own measurement meets the budget."""
        evaluation = self._known[point]
        if evaluation.cut_short:
            return False
        if evaluation.within is not None and (self.safety or evaluation.expected_drop is None):
            return evaluation.within and evaluation.cautious_drop <= self.max_drop
        return self._value(evaluation) <= self.max_drop

    def meets(self, point: PlanPoint) -> bool:
        """Whether its measurement meets the budget, and the map as well where its own luck is not accounted for."""
        if not self.within(point):
            return False
        known = self._known[point].expected_drop is not None
        return known or bool(self.expected(np.array([point.damage]))[0] <= self.max_drop + _ROUNDING)

    def cheapest(self) -> PlanPoint | None:
        """The cheapest plan that meets the budget."""
        meeting = [point for point in self._known if self.meets(point)]
        return min(meeting, key=lambda point: (point.cost, point.damage), default=None)

    def result(self, chosen: PlanPoint | None = None) -> SearchResult:
        """The outcome with `chosen`, by default the cheapest plan that meets the budget, else the best effort.

        Best effort is the least drop. An evaluation that was stopped says it with more noise, and of several the least
        would be the noisiest: those that read every sample go first.
        """
        order = sorted(self._known, key=lambda point: (point.cost, point.damage))
        fitted = self.expected(np.array([point.damage for point in order]))
        evaluated = {
            point: EvaluatedPlan(point, self._known[point], float(drop), self.meets(point))
            for point, drop in zip(order, fitted, strict=True)
        }
        chosen = chosen or self.cheapest()
        if chosen is not None and evaluated[chosen].meets:
            return SearchResult(SearchStatus.MET, evaluated[chosen], tuple(evaluated.values()))
        best = chosen or min(order, key=self._effort)
        status = SearchStatus.DEADLINE if self._out_of_time else SearchStatus.NOT_MET
        return SearchResult(status, evaluated[best], tuple(evaluated.values()))

    def least_drop(self) -> PlanPoint:
        """The plan with the least measured drop, of those that read every sample if there are any."""
        return min(self._known, key=self._effort)

    def _effort(self, point: PlanPoint) -> tuple[bool, float, float]:
        evaluation = self._known[point]
        return evaluation.fraction < 1, self._value(evaluation), point.cost

    def _value(self, evaluation: Evaluation) -> float:
        if self.safety:
            return max(evaluation.drop + self.safety * evaluation.stderr, evaluation.cautious_drop)
        return evaluation.counted_drop


def quarter_inside(low: int, high: int, guess: int, part: int = 4) -> int:
    """The guess, kept a quarter (or another part) inside the bracket from `low` to `high`, so that every probe narrows
    it."""
    margin = (high - low) // part
    return min(max(guess, low + margin), high - margin)

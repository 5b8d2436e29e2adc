"""The integer program of the additive problem, for any mix of limits (HAWQ-V3, arXiv 2011.10680), solved by HiGHS.

Minimise `v' x` over one-hot choices x, with `c' x <= limit` for every limit; v and c may be size, bit operations,
latency or the sum of the candidates' damages.

What differs from handing the numbers to the solver:

1. HiGHS stops at an absolute gap of 1e-6 and judges rows by an absolute tolerance, whatever the units. The objective
   is therefore scaled by the relaxation's optimum, and rows of whole numbers by their common divisor.
2. A plan that exceeds a limit by less than the solver's tolerance still exceeds it. Such a plan is cut off by name and
   the program solved again, so that every answer keeps its limits exactly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.optimize import Bounds, LinearConstraint, milp

from planner.console import native_output_dropped
from planner.problem import Limits, Plan, Problem, Quantity
from planner.results import INFEASIBLE, Solution, Status

# scaled optimum: the absolute gap of 1e-6 is then a relative one of 1e-9
_SCALED_OPTIMUM = 1e3
# answers of scipy.optimize.milp
_OPTIMAL, _STOPPED, _INFEASIBLE = 0, 1, 2


def solve_integer(
    problem: Problem, objective: Quantity, limits: Limits, *, time_limit_seconds: float | None = None
) -> Solution:
    """The plan with the least `objective` within all `limits`, or the best one found by the time limit.

    Interactions are left out: damages are the sum of the candidates' own.
    """
    program = _Program.of(problem, objective, limits)
    if program is None:
        return INFEASIBLE
    options: dict[str, float] = {"mip_rel_gap": 0.0}
    if time_limit_seconds is not None:
        options["time_limit"] = time_limit_seconds
    relaxed = program.solve(1.0, integral=False, options={})
    if relaxed.status == _INFEASIBLE:
        return INFEASIBLE
    scale = 1.0
    if relaxed.x is not None:
        optimum = abs(float(program.objective @ relaxed.x) + program.offset)
        scale = _SCALED_OPTIMUM / optimum if optimum > 0 else 1.0 / max(float(program.objective.max()), 1e-300)
    while True:
        answer = program.solve(scale, integral=True, options=options)
        if answer.status == _INFEASIBLE:
            return INFEASIBLE
        if answer.x is None:
            return Solution(Status.STOPPED, None, math.inf, -math.inf)
        plan = plan_of(problem, answer.x)
        exact = problem.without_interactions()
        if exact.within(limits, np.asarray([plan.choices])).all():
            break
        program = program.without(problem, plan)
    value = exact.total(objective, plan)
    if answer.status == _OPTIMAL:
        return Solution(Status.OPTIMAL, plan, value, value)
    bound = -math.inf if answer.mip_dual_bound is None else answer.mip_dual_bound / scale + program.offset
    return Solution(Status.BOUNDED, plan, value, min(value, bound))


@dataclass(frozen=True, eq=False)
class _Program:
    """Objective [K] counted from every site's least value, and rows `matrix @ x <= upper`."""

    objective: NDArray[np.float64]
    offset: float
    choices: Any
    matrix: Any
    upper: NDArray[np.float64]

    @classmethod
    def of(cls, problem: Problem, objective: Quantity, limits: Limits) -> _Program | None:
        """The program, or None when one limit alone cannot be kept."""
        values, offset = _above_least(problem, objective)
        rows, upper = [], []
        for quantity, limit in limits.items():
            row, least = _above_least(problem, quantity)
            if least > limit:
                return None
            divisor = _divisor(row)
            rows.append(row / divisor)
            upper.append((limit - least) / divisor)
        count = len(values)
        matrix = sparse.csr_array(np.array(rows).reshape(len(rows), count))
        return cls(values, offset, _one_per_site(problem), matrix, np.array(upper))

    def solve(self, scale: float, *, integral: bool, options: dict[str, float]) -> Any:
        constraints = [LinearConstraint(self.choices, 1, 1)]
        if len(self.upper):
            constraints.append(LinearConstraint(self.matrix, -np.inf, self.upper))
        with native_output_dropped():
            return milp(
                self.objective * scale,
                constraints=constraints,
                integrality=np.full(len(self.objective), int(integral)),
                bounds=Bounds(0, 1),
                options=options,
            )

    def without(self, problem: Problem, plan: Plan) -> _Program:
        """The program in which this one plan is not allowed."""
        row = np.zeros((1, len(self.objective)))
        row[0, problem.offsets[:-1] + np.asarray(plan.choices)] = 1
        return _Program(
            self.objective,
            self.offset,
            self.choices,
            sparse.vstack([self.matrix, sparse.csr_array(row)]),
            np.append(self.upper, len(plan.choices) - 1),
        )


def _above_least(problem: Problem, quantity: Quantity) -> tuple[NDArray[np.float64], float]:
    """[K]: values above the least of their site, and the sum of the least with the base."""
    values = problem.values(quantity)
    least = np.minimum.reduceat(values, problem.offsets[:-1])
    return values - least[problem.site_of], float(least.sum()) + problem.base(quantity)


def _divisor(row: NDArray[np.float64]) -> float:
    """What brings a row to small numbers: the common divisor of whole numbers, else the largest number."""
    if not row.any():
        return 1.0
    if (row == np.rint(row)).all():
        return float(np.gcd.reduce(row.astype(np.int64)))
    return float(row.max())


def _one_per_site(problem: Problem) -> Any:
    count = len(problem.site_of)
    return sparse.csr_array((np.ones(count), (problem.site_of, np.arange(count))))


def plan_of(problem: Problem, x: NDArray[np.float64]) -> Plan:
    """The plan that a solver's vector (its first K entries) chooses."""
    bounds = zip(problem.offsets[:-1], problem.offsets[1:], strict=True)
    return Plan(tuple(int(np.argmax(x[begin:end])) for begin, end in bounds))

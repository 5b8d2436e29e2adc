"""The integer program of the additive problem, for any mix of limits (HAWQ-V3, arXiv 2011.10680), solved by HiGHS.

Minimise `v' x` over one-hot choices x, with `c' x <= limit` for every limit; v and c may be size, bit operations or
latency, v also the sum of the candidates' damages.

What differs from handing the numbers to the solver:

1. HiGHS stops at an absolute gap of 1e-6 and judges rows by an absolute tolerance, whatever the units. The objective
   is therefore scaled by the relaxation's optimum, and rows of whole numbers by their common divisor.
2. A plan that exceeds a limit by less than the solver's tolerance still exceeds it. Such a plan is cut off by name and
   the program solved again, so that every answer keeps its limits exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.optimize import Bounds, LinearConstraint, milp

from planner.console import native_output_dropped
from planner.problem import Limits, Plan, Problem, Quantity

# scaled optimum: the absolute gap of 1e-6 is then a relative one of 1e-9
_SCALED_OPTIMUM = 1e3
# answer of scipy.optimize.milp
_INFEASIBLE = 2


def solve_integer(problem: Problem, objective: Quantity, limits: Limits) -> Plan | None:
    """The plan with the least `objective` within all `limits`, or None when no plan keeps them.

    Interactions are left out: damages are the sum of the candidates' own.
    """
    budgets = _budget_constraints(problem, limits)
    if budgets is None:
        return None
    constraints = [_one_hot_constraints(problem), *budgets]
    values, offset = _above_least(problem, objective)
    relaxed = _solve(values, constraints, integral=False)
    if relaxed.status == _INFEASIBLE:
        return None
    scale = 1.0
    if relaxed.x is not None:
        optimum = abs(float(values @ relaxed.x) + offset)
        scale = _SCALED_OPTIMUM / optimum if optimum > 0 else 1.0 / max(float(values.max()), 1e-300)
    while True:
        answer = _solve(values * scale, constraints, integral=True)
        if answer.x is None:
            return None
        plan = plan_of(problem, answer.x)
        if problem.within(limits, np.asarray([plan.choices])).all():
            return plan
        constraints.append(_exclusion_constraint(problem, plan))


def plan_of(problem: Problem, x: NDArray[np.float64]) -> Plan:
    """The plan that a solver's vector (its first K entries) chooses."""
    bounds = zip(problem.offsets[:-1], problem.offsets[1:], strict=True)
    return Plan(tuple(int(np.argmax(x[begin:end])) for begin, end in bounds))


def _solve(objective: NDArray[np.float64], constraints: Sequence[LinearConstraint], *, integral: bool) -> Any:
    with native_output_dropped():
        return milp(
            objective,
            constraints=constraints,
            integrality=np.full(len(objective), int(integral)),
            bounds=Bounds(0, 1),
            options={"mip_rel_gap": 0.0} if integral else {},
        )


def _one_hot_constraints(problem: Problem) -> LinearConstraint:
    """Every site takes one candidate."""
    count = len(problem.site_of)
    return LinearConstraint(sparse.csr_array((np.ones(count), (problem.site_of, np.arange(count)))), 1, 1)


def _budget_constraints(problem: Problem, limits: Limits) -> list[LinearConstraint] | None:
    """The limits, counted from the least that the sites can cost; None when one of them alone cannot be kept."""
    constraints = []
    for quantity, limit in limits.items():
        row, least = _above_least(problem, quantity)
        if least > limit:
            return None
        divisor = _divisor(row)
        constraints.append(LinearConstraint(sparse.csr_array(row[None] / divisor), -np.inf, (limit - least) / divisor))
    return constraints


def _exclusion_constraint(problem: Problem, plan: Plan) -> LinearConstraint:
    """This one plan is not allowed."""
    row = np.zeros((1, len(problem.site_of)))
    row[0, problem.offsets[:-1] + np.asarray(plan.choices)] = 1
    return LinearConstraint(sparse.csr_array(row), -np.inf, len(plan.choices) - 1)


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

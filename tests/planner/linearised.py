"""The exact integer program with interactions, linearised: an oracle for small problems.

Every product `x_p x_q` of candidates of two sites becomes a variable `y_pq >= 0` with `sum_q y_pq = x_p` over each
site of q, and the same with p and q exchanged (the level-1 linearisation of Adams and Sherali, 1986); with x one-hot
that makes y the product, and the damage `x' G x` linear in (x, y). CLADO (arXiv 2307.05657) reports that solvers do not
end on larger cases.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.optimize import Bounds, LinearConstraint, milp

from planner.console import native_output_dropped
from planner.integer import plan_of
from planner.problem import Limits, Plan, Problem, Quantity

_OPTIMAL, _INFEASIBLE = 0, 2


def solve_linearised(
    problem: Problem, objective: Quantity, limits: Limits, *, time_limit_seconds: float | None = None
) -> Plan | None:
    """The plan with the least `objective` within all `limits`, the damage being `x' G x`; None when there is none."""
    first, second = _pairs(problem)
    objective_row = _row(problem, objective, first, second)
    scale = max(float(np.abs(objective_row).max()), 1e-300)
    constraints = _definitions(problem, first, second)
    for quantity, limit in limits.items():
        row = _row(problem, quantity, first, second)
        size = max(float(np.abs(row).max()), 1e-300)
        upper = (limit - problem.base(quantity)) / size
        constraints.append(LinearConstraint(sparse.csr_array(row[None] / size), -np.inf, upper))
    count = len(problem.site_of)
    options: dict[str, float] = {"mip_rel_gap": 0.0}
    if time_limit_seconds is not None:
        options["time_limit"] = time_limit_seconds
    while True:
        with native_output_dropped():
            answer = milp(
                objective_row / scale * 1e3,
                constraints=constraints,
                integrality=np.append(np.ones(count), np.zeros(len(first))),
                bounds=Bounds(0, 1),
                options=options,
            )
        if answer.status == _INFEASIBLE:
            return None
        if answer.status != _OPTIMAL:
            raise RuntimeError(f"the oracle stopped before the optimum: {answer.message}")
        plan = plan_of(problem, answer.x)
        if problem.within(limits, np.asarray([plan.choices])).all():
            return plan
        # over a limit by less than the solver's tolerance: this plan is not allowed
        row = np.zeros((1, count + len(first)))
        row[0, problem.offsets[:-1] + np.asarray(plan.choices)] = 1
        constraints.append(LinearConstraint(sparse.csr_array(row), -np.inf, len(plan.choices) - 1))


def _pairs(problem: Problem) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """All pairs of candidates p < q of two sites."""
    first, second = np.triu_indices(len(problem.site_of), 1)
    different = problem.site_of[first] != problem.site_of[second]
    return first[different], second[different]


def _row(
    problem: Problem, quantity: Quantity, first: NDArray[np.int64], second: NDArray[np.int64]
) -> NDArray[np.float64]:
    """The coefficients of a quantity over (x, y)."""
    if quantity is not Quantity.DAMAGE or problem.interactions is None:
        return np.append(problem.values(quantity), np.zeros(len(first)))
    return np.append(np.diag(problem.interactions), 2 * problem.interactions[first, second])


def _definitions(problem: Problem, first: NDArray[np.int64], second: NDArray[np.int64]) -> list[Any]:
    """One candidate per site, and products that agree with their factors."""
    count, products = len(problem.site_of), len(first)
    one_hot = sparse.csr_array(
        (np.ones(count), (problem.site_of, np.arange(count))), shape=(len(problem.sites), count + products)
    )
    # a row for every candidate p and every other site j: sum of y_pq over q in j, minus x_p
    sites = len(problem.sites)
    columns = count + np.arange(products)
    rows_first = first * sites + problem.site_of[second]
    rows_second = second * sites + problem.site_of[first]
    all_rows = np.unique(np.concatenate([rows_first, rows_second]))
    rows = np.concatenate([rows_first, rows_second, all_rows])
    entries = np.concatenate([columns, columns, all_rows // sites])
    signs = np.concatenate([np.ones(2 * products), -np.ones(len(all_rows))])
    agree = sparse.csr_array(
        (signs, (np.searchsorted(all_rows, rows), entries)), shape=(len(all_rows), count + products)
    )
    return [LinearConstraint(one_hot, 1, 1)] + ([LinearConstraint(agree, 0, 0)] if products else [])

"""Symmetric matrices in place: what numpy says of them, and none of its copies."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest

from planner.descent import Descent
from planner.problem import Candidate, PlanSite, Problem, Quantity
from planner.symmetric import asymmetry, eigenvalue_range, largest, symmetrise
from quantization.formats import IntegerFormat

SIZES = (1, 7, 256, 300, 600)  # of one tile, of whole ones, and with a rest


def _matrix(size: int) -> np.ndarray:
    return np.random.default_rng(size).normal(size=(size, size))


@pytest.mark.parametrize("size", SIZES)
def test_the_mean_with_the_transpose(size: int) -> None:
    matrix = _matrix(size)
    assert asymmetry(matrix) == np.abs(matrix - matrix.T).max()
    assert largest(matrix) == np.abs(matrix).max()
    expected = (matrix + matrix.T) / 2
    symmetrise(matrix)
    assert np.array_equal(matrix, expected)
    assert asymmetry(matrix) == 0


@pytest.mark.parametrize("size", SIZES)
def test_eigenvalues_leave_the_matrix_as_it_was(size: int) -> None:
    matrix = _matrix(size)
    symmetrise(matrix)
    before, values = matrix.copy(), np.linalg.eigvalsh(matrix)
    assert eigenvalue_range(matrix) == pytest.approx((values[0], values[-1]), rel=1e-9)
    assert np.array_equal(matrix, before)


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_what_is_no_number_shows(broken: float) -> None:
    matrix = np.zeros((300, 300))
    matrix[290, 3] = broken
    assert not np.isfinite(largest(matrix))


def _peak(work: Callable[[], object]) -> int:
    """Bytes that numpy and Python take at once for it."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_problem_takes_a_large_matrix_over_and_its_descent_too() -> None:
    """960 candidates: 7 MB. Each copy of the matrix, or expression over all of it, would be as much again."""
    formats = [IntegerFormat(bits) for bits in range(2, 8)]
    sites = tuple(PlanSite(f"s{place}", tuple(Candidate(own, 1, 1, 0.0) for own in formats)) for place in range(160))
    root = np.random.default_rng(0).normal(size=(960, 20))
    matrix = root @ root.T
    symmetrise(matrix)
    before = matrix.copy()
    matrix.flags.writeable = False
    problems: list[Problem] = []
    taken = _peak(lambda: problems.append(Problem(sites, interactions=matrix)))
    assert problems[0].interactions is matrix
    assert np.array_equal(matrix, before)
    descent = _peak(lambda: Descent.of(problems[0], [Quantity.SIZE]))
    assert max(taken, descent) < matrix.nbytes / 3


def test_all_pairs_are_judged_some_at_a_time(random_problem) -> None:
    problem = random_problem(0, 160, 6, interactions=True)
    descent = Descent.of(problem, [Quantity.SIZE])
    plan, upper = problem.offsets[:-1] + 2, np.array([np.inf])
    assert _peak(lambda: descent.improved(plan, upper)) < 1.5 * descent.interactions.nbytes


def test_a_matrix_that_its_owner_may_still_change_is_copied() -> None:
    matrix = np.eye(2)
    site = PlanSite("s", tuple(Candidate(IntegerFormat(bits), 1, 1, 0.0) for bits in (2, 3)))
    problem = Problem((site,), interactions=matrix)
    assert problem.interactions is not matrix
    assert matrix.flags.writeable
